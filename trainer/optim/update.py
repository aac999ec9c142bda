"""What an optimiser is to a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.flat import FlatParameters


class Update(ABC):
    """One optimiser bound to its parameters.

    A step is two halves. `numbers` computes on the host, in double precision, all that depends on the step number and
    the learning rate; `move` does the arithmetic on the device and sees nothing but tensors, so that it is compiled
    once and waits for nothing.
    """

    @abstractmethod
    def state(self) -> dict[str, dict[str, Tensor]]:
        """Kind of state → parameter name → view; loading copies into the views."""

    def forget(self, name: str, grown: Tensor) -> None:
        """Zero what is known of the weights of `name` where `grown` [as the weight] is true.

        What is known of a whole row or column stays: it has seen their gradients all along.
        """
        for views in self.state().values():
            if name in views and views[name].shape == grown.shape:
                views[name].masked_fill_(grown, 0.0)

    @abstractmethod
    def numbers(self, rate: float, step: int) -> Sequence[float]:
        """What `move` needs to know of step `step`, counted from 0, at learning rate `rate`; always as many."""

    @abstractmethod
    def move(self, gradient: Tensor, numbers: Tensor) -> None:
        """Move the parameters by one step; `gradient` is flat and may be overwritten; `numbers` float32, as above."""

    def step(self, gradient: Tensor, rate: float, step: int) -> None:
        """Both halves."""
        self.move(gradient, torch.tensor(self.numbers(rate, step), device=gradient.device))


def decayed(parameters: FlatParameters) -> list[Tensor]:
    """The weights on which decay acts, of two or more dimensions: norm scales and biases are no capacity to be held
    down."""
    return [view for view in parameters.views.values() if view.dim() >= 2]
