"""AdaFactor's second moments: one float32 a weight, or one a row and one a column."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from trainer.flat import FlatParameters
from trainer.program import Optimizer


class Moments(Protocol):
    """Running means of squared gradients. They stay dense, as gradients do: pruned weights have theirs too."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """As `Update.state`."""
        ...

    def normalise(self, update: Tensor, arrival: Tensor, spare: Tensor) -> None:
        """Divide the flat gradient in place by √v, v brought up to date with it by `arrival` [] = 1 − β2_t.

        spare: a buffer like it, to be overwritten.
        """
        ...


def moments_of(optimizer: Optimizer, parameters: FlatParameters) -> Moments:
    """Those that the program names."""
    return (FactoredMoments if optimizer.factored else FullMoments)(optimizer.epsilon, parameters)


class FullMoments:
    """State: v, one float32 a weight: the paper's choice (RECIPE section 4)."""

    def __init__(self, epsilon: float, parameters: FlatParameters) -> None:
        self._epsilon, self._parameters = epsilon, parameters
        self._v = parameters.zeros()

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {"v": self._parameters.view_of(self._v)}

    def normalise(self, update: Tensor, arrival: Tensor, spare: Tensor) -> None:
        squared = torch.mul(update, update, out=spare).add_(self._epsilon)
        self._v.lerp_(squared, arrival)
        update.div_(torch.sqrt(self._v, out=spare))


class FactoredMoments:
    """State: row [out] and column [in] of every weight of two or more dimensions, v of the others.

    v of a matrix [out, in] is taken as r·cᵀ / mean(r), with r and c the running means of g² + ε over columns and rows
    (Shazeer and Stern 2018, section 3). Weights of more dimensions count as [first, all others]. A row's mean counts
    pruned weights too.
    """

    def __init__(self, epsilon: float, parameters: FlatParameters) -> None:
        self._epsilon, self._parameters = epsilon, parameters
        self._rows: dict[str, Tensor] = {}
        self._columns: dict[str, Tensor] = {}
        self._vectors: dict[str, Tensor] = {}
        for name, weight in parameters.views.items():
            if weight.dim() < 2:
                self._vectors[name] = torch.zeros_like(weight)
                continue
            self._rows[name] = weight.new_zeros(weight.shape[0])
            self._columns[name] = weight.new_zeros(weight[0].numel())

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {"row": self._rows, "column": self._columns, "v": self._vectors}

    def normalise(self, update: Tensor, arrival: Tensor, spare: Tensor) -> None:
        squared = torch.mul(update, update, out=spare).add_(self._epsilon)
        seen = self._parameters.view_of(squared)
        for name, view in self._parameters.view_of(update).items():
            if name in self._vectors:
                v = self._vectors[name].lerp_(seen[name], arrival)
                view.div_(v.sqrt())
                continue
            matrix = seen[name].view(len(view), -1)
            row = self._rows[name].lerp_(matrix.mean(1), arrival)
            column = self._columns[name].lerp_(matrix.mean(0), arrival)
            factored = view.view(len(view), -1)
            factored.mul_((row / row.mean()).rsqrt()[:, None]).mul_(column.rsqrt())
