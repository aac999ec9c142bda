"""AdaFactor with factored second moments (Shazeer and Stern 2018, section 3): one float32 a row and one a column.

v of a matrix [out, in] is taken as r·cᵀ / mean(r), with r and c the running means of g² + ε over columns and rows.
Weights of more dimensions count as [first, all others]; those of one keep their full v. What follows the division is
the paper's sparsity-aware chain, unchanged: masks act on the clip and on the scale. The moments themselves stay dense,
as gradients do (RECIPE section 4), so a row's mean counts pruned weights too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.flat import FlatParameters
from trainer.optim.adafactor import AdaFactor
from trainer.program import Optimizer


class FactoredAdaFactor(AdaFactor):
    """State: row [out] and column [in] of every weight of two or more dimensions, v of the others."""

    def __init__(self, optimizer: Optimizer, parameters: FlatParameters) -> None:
        super().__init__(optimizer, parameters)
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

    def forget(self, name: str, grown: Tensor) -> None:
        # A grown weight has no moment of its own: its row and its column have seen its gradient all along.
        pass

    def _allocate(self) -> None:
        pass

    def _normalise(self, update: Tensor, arrival: Tensor) -> None:
        squared = torch.mul(update, update, out=self._masked).add_(self._optimizer.epsilon)
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
