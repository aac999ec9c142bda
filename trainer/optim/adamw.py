"""AdamW (Loshchilov and Hutter 2019), for comparison with the paper's AdaFactor.

β1 0.9, β2 0.999, ε 1e-8 as published. Weight decay is decoupled, times the learning rate. It knows nothing of sparsity;
masks are applied after it, so momentum revives no pruned weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.flat import StackedParameters
from trainer.optim.update import Update, decayed, per_model
from trainer.program import Optimizer

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamW(Update):
    """State: m and v, running means of gradients and of their squares, one float32 a weight each."""

    def __init__(self, optimizer: Optimizer, parameters: StackedParameters) -> None:
        self._parameters = parameters
        self._decay = optimizer.weight_decay
        self._m, self._v, self.spare = (parameters.zeros() for _ in range(3))
        self._matrices = decayed(parameters)

    def stacked(self) -> dict[str, dict[str, Tensor]]:
        return {"m": self._parameters.view_of(self._m), "v": self._parameters.view_of(self._v)}

    def numbers(self, rate: float, step: int) -> Sequence[float]:
        first, second = 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1)
        return -rate / first, second**0.5, 1 - rate * self._decay

    def move(self, gradient: Tensor, numbers: Tensor) -> None:
        pace, correction, left = per_model(numbers)
        self._m.lerp_(gradient, 1 - BETA1)
        self._v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        scale = torch.sqrt(self._v, out=self.spare).div_(correction).add_(EPSILON)
        if self._decay:
            torch._foreach_mul_(self._matrices, [left] * len(self._matrices))
        self._parameters.data.addcdiv_(torch.mul(self._m, pace, out=gradient), scale)
