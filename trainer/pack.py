"""A pack: several runs of one shape, whose forward and backward passes are computed as one.

Each operation of a pass works on the weights of all members, stacked on a leading axis, so that a step of P small
models costs as many calls as a step of one. What the members may differ in stays theirs: masks, method and pattern,
learning rate, seed and batches, optimiser state and step. Each is an ordinary `Run`, updates itself by its part of
the gradient, and is saved and loaded as if it were alone.

The passes are the same arithmetic as one model's. On the CPU they were seen to give the same bits; on other backends
a stacked product may sum in another order, and a packed run has the losses of a lone one within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer import models
from trainer.packing import unlike
from trainer.run import Run, forward_of


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
        self.intact = True
        """Whether each member is as it was between two steps: so it is when the passes themselves raise."""
        program = first.program
        flat = first.parameters
        self._stacked = torch.stack([run.parameters.data for run in runs])
        self._rows = list(self._stacked.unbind())
        self._network = models.build_stacked(
            program.family,
            program.shape,
            flat.stacked_view_of(self._stacked),
            z_loss=program.numerics.z_loss,
            smoothing=program.numerics.label_smoothing,
        )
        self._tensors = [self._network.module.get_parameter(name) for name in flat.names]
        self._forward = forward_of(self._network, program, first.device)

    def advance(self) -> Sequence[Tensor]:
        """One step of every member. The cross-entropy of each one's training batch, P of [], nats per target."""
        for row, run in zip(self._rows, self.runs, strict=True):
            with run.training(), torch.no_grad():
                row.copy_(run.parameters.data)
        loss = self._forward(self._batch())
        found = torch.autograd.grad(loss.train, self._tensors)
        self.intact = False
        for run, gradients in zip(
            self.runs, zip(*(part.unbind() for part in found), strict=True), strict=True
        ):
            run.update(gradients)
        self.intact = True
        return loss.reported.unbind()

    @torch.no_grad()
    def evaluate(self) -> list[float]:
        """Each member's mean cross-entropy over the fixed held-out batches, which are the same for all."""
        for row, run in zip(self._rows, self.runs, strict=True):
            with run.pruner.seen(run.step - 1):
                row.copy_(run.parameters.data)
        first = self.runs[0]
        count = first.batches.evaluation_batches
        losses = []
        for index in range(count):
            batch = first.device.place(first.batches.validation(first.step, index))
            losses.append(self._forward(self._repeated(batch)).reported)
            first.device.end_part()
        return [sum(of_member) / count for of_member in torch.stack(losses, 1).tolist()]

    def _batch(self) -> dict[str, Tensor]:
        """The members' next batches, [P, B, …]. Siblings of one seed and step read the same one: it is made once."""
        first = self.runs[0]
        if len({(run.program.seed, run.clock) for run in self.runs}) == 1:
            return self._repeated(first.batch())
        batches = [run.batch() for run in self.runs]
        return {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}

    def _repeated(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        members = len(self.runs)
        return {name: value.expand(members, *value.shape) for name, value in batch.items()}
