"""AdaFactor's second moments: one float32 a weight, or one a row and one a column."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from trainer.flat import StackedParameters
from trainer.program import Optimizer


class Moments(Protocol):
    """Running means of squared gradients. They stay dense, as gradients do: pruned weights have theirs too."""

    def stacked(self) -> dict[str, dict[str, Tensor]]:
        """As `Update.stacked`."""
        ...

    def normalise(self, update: Tensor, arrival: Tensor, spare: Tensor) -> None:
        """Divide the gradients [P, size] in place by √v, v brought up to date with it by `arrival` [P, 1] = 1 − β2_t.

        spare: a buffer like it, to be overwritten.
        """
        ...


def moments_of(optimizer: Optimizer, parameters: StackedParameters) -> Moments:
    """Those that the program names."""
    return (FactoredMoments if optimizer.factored else FullMoments)(optimizer.epsilon, parameters)


class FullMoments:
    """State: v, one float32 a weight: the paper's choice (RECIPE section 4)."""

    def __init__(self, epsilon: float, parameters: StackedParameters) -> None:
        self._epsilon, self._parameters = epsilon, parameters
        self._v = parameters.zeros()

    def stacked(self) -> dict[str, dict[str, Tensor]]:
        return {"v": self._parameters.view_of(self._v)}

    def normalise(self, update: Tensor, arrival: Tensor, spare: Tensor) -> None:
        squared = torch.mul(update, update, out=spare).add_(self._epsilon)
        self._v.lerp_(squared, arrival)
        update.div_(torch.sqrt(self._v, out=spare))


class FactoredMoments:
    """State: row [P, out] and column [P, in] of every weight of two or more dimensions, v [P, …] of the others.

    v of a matrix [out, in] is taken as r·cᵀ / mean(r), with r and c the running means of g² + ε over columns and rows
    (Shazeer and Stern 2018, section 3). Weights of more dimensions count as [first, all others]. A row's mean counts
    pruned weights too.
    """

    def __init__(self, epsilon: float, parameters: StackedParameters) -> None:
        self._epsilon, self._parameters = epsilon, parameters
        self._rows: dict[str, Tensor] = {}
        self._columns: dict[str, Tensor] = {}
        self._vectors: dict[str, Tensor] = {}
        for name, weights in parameters.views.items():
            members, *shape = weights.shape
            if len(shape) < 2:
                self._vectors[name] = torch.zeros_like(weights)
                continue
            self._rows[name] = weights.new_zeros(members, shape[0])
            self._columns[name] = weights.new_zeros(members, math.prod(shape[1:]))

    def stacked(self) -> dict[str, dict[str, Tensor]]:
        return {"row": self._rows, "column": self._columns, "v": self._vectors}

    def normalise(self, update: Tensor, arrival: Tensor, spare: Tensor) -> None:
        squared = torch.mul(update, update, out=spare).add_(self._epsilon)
        seen = self._parameters.view_of(squared)
        for name, view in self._parameters.view_of(update).items():
            if name in self._vectors:
                v = self._vectors[name].lerp_(seen[name], arrival)
                view.div_(v.sqrt())
                continue
            matrix = seen[name].flatten(2)
            row = self._rows[name].lerp_(matrix.mean(2), arrival)
            column = self._columns[name].lerp_(matrix.mean(1), arrival)
            factored = view.flatten(2)
            factored.mul_((row / row.mean(1, keepdim=True)).rsqrt()[:, :, None]).mul_(column.rsqrt()[:, None])
