"""AdaFactor (Shazeer and Stern 2018) made aware of sparsity, as the paper trains T5 (RECIPE section 4).

In order: divide by √v (unfactored, as in the paper, or factored: masks act on what follows alone), β2_t = 1 − t^(−0.8),
ε 1e-30; clip by max(1, RMS over non-zero weights of u); times the learning rate; times
√(max(rms(p), 1e-3)² · numel/nnz). No momentum, no weight decay. A layer whose weights are all zero counts as dense: its
RMS is taken over all weights and numel/nnz is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.flat import FlatParameters
from trainer.optim.moments import moments_of
from trainer.optim.update import Update
from trainer.program import Optimizer


class AdaFactor(Update):
    """State: the second moments (`trainer.optim.moments`)."""

    def __init__(self, optimizer: Optimizer, parameters: FlatParameters) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._moments = moments_of(optimizer, parameters)
        self._cut: tuple[Tensor, list[Tensor]] | None = None
        self._masked = parameters.zeros()
        self._weights = list(parameters.views.values())
        self._masked_views = list(parameters.view_of(self._masked).values())
        self._sizes = torch.tensor(
            [float(weight.numel()) for weight in self._weights], device=parameters.data.device
        )

    def state(self) -> dict[str, dict[str, Tensor]]:
        return self._moments.state()

    def numbers(self, rate: float, step: int) -> Sequence[float]:
        return float(step + 1) ** -self._optimizer.decay_exponent, -rate  # 1 − β2_t

    def move(self, gradient: Tensor, numbers: Tensor) -> None:
        chosen, weights = self._optimizer, self._parameters.data
        arrival, pace = numbers.unbind()
        update = gradient
        self._moments.normalise(update, arrival, self._masked)
        # Counted as a sum of ones: XLA takes 0⁰ for 1, which a norm of order 0 would run into.
        alive_weights = self._masked.copy_(weights != 0)
        nonzero = torch.stack(torch._foreach_norm(self._masked_views, 1))
        alive_weights.mul_(update)
        weight_norm = torch.stack(torch._foreach_norm(self._weights, 2))
        alive = nonzero > 0
        counted = torch.where(alive, nonzero, self._sizes)
        update_norm = torch.stack(torch._foreach_norm(self._masked_views, 2))
        # Only a CPU can look at no cost: elsewhere asking would wait for the device, and what is compiled cannot ask.
        if not weights.is_cpu or torch.compiler.is_compiling() or not alive.all():
            everything = torch.stack(torch._foreach_norm(self._views_of(update), 2))
            update_norm = torch.where(alive, update_norm, everything)
        clip = (update_norm / counted.sqrt() / chosen.clip_rms).clamp_(min=1.0)
        scale = (weight_norm / self._sizes.sqrt()).clamp_(min=chosen.minimum_scale) * (
            self._sizes / counted
        ).sqrt()
        factors = (scale / clip).mul_(pace)
        torch._foreach_mul_(self._views_of(update), list(factors.unbind()))
        weights.add_(update)

    def _views_of(self, update: Tensor) -> list[Tensor]:
        # A gradient is one and the same buffer at every step: to cut it anew takes a fifth of a small model's update.
        if torch.compiler.is_compiling():
            return list(self._parameters.view_of(update).values())
        if self._cut is None or self._cut[0] is not update:
            self._cut = update, list(self._parameters.view_of(update).values())
        return self._cut[1]
