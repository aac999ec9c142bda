"""The gradient of a batch from the gradients of its parts, summed in the order of the parts whoever computed them.

Floating-point sums depend on their order. Each process therefore takes a stretch of the flat gradient, gets it from
all others for every part, adds the parts up one by one, and the summed stretches are gathered: for one part a process,
as many bytes as an all-reduce moves, and the bits of one process that adds the parts up alone. A part is on its way
while the next one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.flat import StackedParameters
from trainer.ranks import Ranks


class PartSum:
    """flat: [P, size] as the parameters of P models lie; after `finish` the mean over the parts.

    Several processes train one model (P = 1), and have the same mean then.
    """

    def __init__(self, parameters: StackedParameters, ranks: Ranks) -> None:
        self._ranks = ranks
        members, size = parameters.data.shape
        stretch = -(-members * size // ranks.count)
        self._whole = parameters.data.new_zeros(stretch * ranks.count)
        self._summed = self._whole if ranks.alone else parameters.data.new_zeros(stretch)
        self._received = parameters.data.new_zeros(0 if ranks.alone else (ranks.count, stretch))
        self._sent: Callable[[], None] | None = None
        self.flat = self._whole[: members * size].view(members, size)
        # One model's gradients come as its parameters are, without an axis in front.
        self._views = list(parameters.view_of(self.flat[0] if members == 1 else self.flat).values())
        self._parts = 0

    def set(self, gradients: Sequence[Tensor]) -> None:
        """Take a gradient for the whole one: a tensor a parameter in their order, [P, …] for several models."""
        torch._foreach_copy_(self._views, list(gradients))

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Add the gradient of this process's next part; all processes add theirs at the same time."""
        if self._ranks.alone:
            if self._parts:
                torch._foreach_add_(self._views, list(gradients))
            else:
                self.set(gradients)
            self._parts += 1
            return
        self._collect()
        self.set(gradients)
        self._sent = self._ranks.deal(self._whole, self._received)

    def _collect(self) -> None:
        """Add up what is on its way."""
        if self._sent is None:
            return
        self._sent()
        self._sent = None
        for part in self._received:
            if self._parts:
                self._summed.add_(part)
            else:
                self._summed.copy_(part)
            self._parts += 1

    def restart(self) -> None:
        """The parts that were added so far do not count. For one process alone."""
        self._parts = 0

    def finish(self) -> None:
        """All parts were added: their mean."""
        if not self._ranks.alone:
            self._collect()
            self._ranks.gather(self._summed, self._whole)
        if self._parts > 1:
            self.flat.div_(self._parts)
        self._parts = 0
