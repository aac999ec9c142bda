"""The second half of a step, optimiser and masks, of one run or of several at once.

The weights, moments and masks of P runs are rows of common buffers, so that the update of a pack costs as many calls as
that of a run alone, which is a group of one. What differs by member (learning rate, step, clip, counts of non-zero
weights, when masks are renewed) is a number or a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer import optim
from trainer.flat import StackedParameters
from trainer.gradients import PartSum
from trainer.models import Loss
from trainer.pruning.held import Held
from trainer.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from trainer.run import Run

#: A batch's loss.
Forward = Callable[[Mapping[str, Tensor]], Loss]


class Group:
    """Runs of one shape and optimiser, which leave the groups that they were in.

    It does not keep them, since they keep it: a run's memory is free as soon as nobody wants the run. gradient: that
    of the members' next step. ranks: the processes that compute its parts.
    """

    def __init__(self, runs: Sequence[Run], ranks: Ranks = ALONE) -> None:
        first = runs[0]
        self._device, self._settings, self._ranks = first.device, first.program.optimizer, ranks
        self.parameters = StackedParameters([run.parameters for run in runs])
        self.gradient = PartSum(self.parameters, ranks)
        self.optimizer = optim.build(self._settings, self.parameters)
        self._held = Held(self.parameters)
        move = self.optimizer.move
        self._move = self._device.compile(move) if self.optimizer.compiles else move
        self.intact = True
        """Whether every member is as it was between two steps: so it is when a pass raises."""
        for place, run in enumerate(runs):
            run.join(self, place)
            run.pruner.join(self._held, place)

    def accumulate(
        self, forward: Forward, tensors: Sequence[Tensor], parts: Iterable[Mapping[str, Tensor]]
    ) -> Tensor:
        """Take the gradient of the members' next step: the mean over the parts of a batch. Their mean loss, likewise.

        tensors: the parameters that `forward` computes with, in the order of the layout.
        """
        reported = []
        for part in parts:
            loss = forward(part)
            found = torch.autograd.grad(loss.train, tensors)
            self.gradient.add(found)
            reported.append(loss.reported)
            # While `found` is held: autograd's threads let go of it when they please, and what lives decides what a
            # recorded program is.
            self._device.end_part()
        self.gradient.finish()
        first, *others = self._ranks.in_turn(torch.stack(reported)).unbind()
        return sum(others, start=first) / (1 + len(others))

    @torch.no_grad()
    def update(self, runs: Sequence[Run]) -> None:
        """Move every member by its gradient; each is a step farther then. runs: the members, in their order."""
        self.intact = False
        gradient, device = self.gradient.flat, self._device
        if self._settings.clip_norm:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((self._settings.clip_norm / norms).clamp_(max=1.0))
        # Passes, ranking, optimiser and masks are programs apart, so that a step with a mask update, a masked one and a
        # dense one share them: for a large model each is minutes of compiling.
        device.end_part()
        for run, row in zip(runs, gradient.unbind(), strict=True):
            run.pruner.observe(run.step, row)
        device.end_part()
        numbers = [self.optimizer.numbers(run.learning_rate(), run.clock) for run in runs]
        flat = device.numbers([number for each in numbers for number in each])
        self._move(gradient, flat.view(len(numbers), -1))
        device.end_part()
        self._held.apply()
        for place, run in enumerate(runs):
            for name, grown in run.pruner.after_step(run.step).items():
                self.optimizer.forget(place, name, grown)
            run.stepped()
        device.end_part()
        self.intact = True
