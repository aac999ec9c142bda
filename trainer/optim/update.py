"""What an optimiser is to a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from trainer.flat import StackedParameters


class Update(ABC):
    """One optimiser bound to the parameters of P models: those of a pack, or of one run alone (P = 1).

    A step is two halves. `numbers` computes on the host, in double precision, all that depends on the step number and
    the learning rate; `move` does the arithmetic on the device and sees nothing but tensors, so that it is compiled
    once and waits for nothing.

    spare: a buffer like the parameters' that holds nothing from one step to the next.
    compiles: whether `move` gains by being compiled, where anything does.
    """

    spare: Tensor
    compiles: bool = True

    @abstractmethod
    def stacked(self) -> dict[str, dict[str, Tensor]]:
        """Kind of state → parameter name → view [P, …]."""

    def state(self, member: int) -> dict[str, dict[str, Tensor]]:
        """One model's: kind of state → parameter name → view; loading copies into the views."""
        return {
            kind: {name: view[member] for name, view in views.items()}
            for kind, views in self.stacked().items()
        }

    def forget(self, member: int, name: str, grown: Tensor) -> None:
        """Zero what is known of the weights of `name` of one model where `grown` [as the weight] is true.

        What is known of a whole row or column stays: it has seen their gradients all along.
        """
        for views in self.stacked().values():
            if name in views and views[name].shape[1:] == grown.shape:
                views[name][member].masked_fill_(grown, 0.0)

    @abstractmethod
    def numbers(self, rate: float, step: int) -> Sequence[float]:
        """What `move` needs to know of a model's step `step`, from 0, at learning rate `rate`; always as many."""

    @abstractmethod
    def move(self, gradient: Tensor, numbers: Tensor) -> None:
        """Move all parameters by one step. gradient: [P, size], may be overwritten. numbers: float32 [P, as above]."""


def per_model(numbers: Tensor) -> tuple[Tensor, ...]:
    """The numbers of a step, [P, count], as so many of [P, 1]: factors of flat buffers."""
    return numbers.unsqueeze(-1).unbind(1)


def decayed(parameters: StackedParameters) -> list[Tensor]:
    """The weights on which decay acts, [P, weights] each, of two or more dimensions in one model: norm scales and
    biases are no capacity to be held down."""
    return [view.flatten(1) for view in parameters.views.values() if view.dim() >= 3]
