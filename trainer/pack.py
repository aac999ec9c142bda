"""A pack: several runs of one shape, whose forward and backward passes are computed as one.

Each operation of a pass works on the weights of all members, stacked on a leading axis, so that a step of P small
models costs as many calls as a step of one. What the members may differ in stays theirs: masks, method and pattern,
learning rate, seed and batches, optimiser state and step. Each is an ordinary `Run`, a row of the buffers that the
pack's `Group` updates, and is saved and loaded as if it were alone.

The passes are the same arithmetic as one model's. On the CPU they were seen to give the same bits; on other backends
a stacked product may sum in another order, and a packed run has the losses of a lone one within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from trainer import models
from trainer.group import Group
from trainer.packing import unlike
from trainer.run import Run, forward_of, in_parts


class Pack:
    """Runs that step together. Raises ValueError where they do not fit together.

    The members' programs must agree in what `trainer.packing.ALIKE` says; all else may differ, the step at which they
    stand too.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        first = runs[0]
        for run in runs:
            if (reason := unlike(first.program, run.program)) is not None:
                raise ValueError(f"no pack of {first.program.family} and {run.program.family}: {reason}")
        self.runs = list(runs)
        self._group = Group(runs)
        self._part = min(run.micro_batch for run in runs)
        program, parameters = first.program, self._group.parameters
        self._network = models.build_stacked(
            program.family,
            program.shape,
            parameters.views,
            z_loss=program.numerics.z_loss,
            smoothing=program.numerics.label_smoothing,
        )
        self._tensors = [self._network.module.get_parameter(name) for name in parameters.layout.names]
        self._forward = forward_of(self._network, program, first.device)

    @property
    def intact(self) -> bool:
        """Whether each member is as it was between two steps: so it is when the passes themselves raise."""
        return self._group.intact

    def advance(self) -> Sequence[Tensor]:
        """One step of every member. The cross-entropy of each one's training batch, P of [], nats per target."""
        batch = self._batch()
        with ExitStack() as training:
            for run in self.runs:
                training.enter_context(run.training())
            parts = in_parts(batch, self._part, axis=1)
            reported = self._group.accumulate(self._forward, self._tensors, parts)
        self._group.update(self.runs)
        return reported.unbind()

    @torch.no_grad()
    def evaluate(self) -> list[float]:
        """Each member's mean cross-entropy over the fixed held-out batches of the data that it is at."""
        first = self.runs[0]
        count = first.batches.evaluation_batches
        losses = []
        with ExitStack() as seen:
            for run in self.runs:
                seen.enter_context(run.seen(run.step - 1))
            for index in range(count):
                losses.append(self._forward(self._held_out(index)).reported)
                first.device.end_part()
        return [sum(of_member) / count for of_member in torch.stack(losses, 1).tolist()]

    def _batch(self) -> dict[str, Tensor]:
        """The members' next batches, [P, B, …]. Siblings of one seed and step read the same one: it is made once."""
        alike = len({(run.program.seed, run.clock) for run in self.runs}) == 1
        return self._stacked([run.batch() for run in (self.runs[:1] if alike else self.runs)])

    def _held_out(self, index: int) -> dict[str, Tensor]:
        """The members' held-out batches of that index: the same for all whose data have switched, or not yet."""
        alike = len({run.batches.switched(run.step) for run in self.runs}) == 1
        return self._stacked(
            [
                run.device.place(run.batches.validation(run.step, index))
                for run in (self.runs[:1] if alike else self.runs)
            ]
        )

    def _stacked(self, batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Batches of the members, or one that is that of all, as [P, B, …]."""
        if len(batches) == 1:
            return {name: value.expand(len(self.runs), *value.shape) for name, value in batches[0].items()}
        return {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}
