"""AdaFactor as the paper's ViTs are trained with (RECIPE section 3): big_vision's (Zhai et al. 2022, section 3.4).

In order: divide by √v, β2_t = min(0.999, 1 − t^(−0.8)), ε 1e-30; take the running mean of that (β1 0.9, not corrected
for its beginning at zero) in place of it; add the decoupled weight decay; times the learning rate. Unlike the paper's
T5 there is neither a clip by RMS nor a scale by the parameters', hence nothing that would have to know of zeros: masks
act on the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.flat import StackedParameters
from trainer.optim.moments import moments_of
from trainer.optim.update import Update, decayed, per_model
from trainer.program import Optimizer

BETA1, LARGEST_BETA2 = 0.9, 0.999


class VitAdaFactor(Update):
    """State: m, the running mean of updates, one float32 a weight (big_vision keeps it in bf16), and the moments."""

    def __init__(self, optimizer: Optimizer, parameters: StackedParameters) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        self._moments = moments_of(optimizer, parameters)
        self._m, self.spare = parameters.zeros(), parameters.zeros()
        self._matrices = decayed(parameters)

    def stacked(self) -> dict[str, dict[str, Tensor]]:
        return {"m": self._parameters.view_of(self._m), **self._moments.stacked()}

    def numbers(self, rate: float, step: int) -> Sequence[float]:
        arrival = max(1 - LARGEST_BETA2, float(step + 1) ** -self._optimizer.decay_exponent)
        return arrival, -rate, 1 - rate * self._optimizer.weight_decay

    def move(self, gradient: Tensor, numbers: Tensor) -> None:
        arrival, pace, left = per_model(numbers)
        self._moments.normalise(gradient, arrival, self.spare)
        self._m.lerp_(gradient, 1 - BETA1)
        if self._optimizer.weight_decay:
            torch._foreach_mul_(self._matrices, [left] * len(self._matrices))
        self._parameters.data.add_(torch.mul(self._m, pace, out=gradient))
