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

from trainer.flat import StackedParameters
from trainer.optim.moments import moments_of
from trainer.optim.update import Update, per_model
from trainer.program import Optimizer


class AdaFactor(Update):
    """State: the second moments (`trainer.optim.moments`).

    Compiled, each norm of each parameter is a kernel of its own: 418 for a T5 of 98 parameters, where torch's norms of
    many tensors at once make it 142, and over a minute of compiling.
    """

    compiles = False

    def __init__(self, optimizer: Optimizer, parameters: StackedParameters) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._moments = moments_of(optimizer, parameters)
        self._cut: tuple[Tensor, list[Tensor]] | None = None
        self.spare = parameters.zeros()
        self._weights = self._flat_views(parameters.data)
        self._spare_views = self._flat_views(self.spare)
        self._sizes = torch.tensor(
            [float(weight.shape[1]) for weight in self._weights], device=parameters.data.device
        )

    def stacked(self) -> dict[str, dict[str, Tensor]]:
        return self._moments.stacked()

    def numbers(self, rate: float, step: int) -> Sequence[float]:
        return float(step + 1) ** -self._optimizer.decay_exponent, -rate  # 1 − β2_t

    def move(self, gradient: Tensor, numbers: Tensor) -> None:
        chosen, weights = self._optimizer, self._parameters.data
        arrival, pace = per_model(numbers)
        update = gradient
        self._moments.normalise(update, arrival, self.spare)
        # Counted as a sum of ones: XLA takes 0⁰ for 1, which a norm of order 0 would run into.
        alive_weights = self.spare.copy_(weights != 0)
        nonzero = _norms(self._spare_views, 1)
        alive_weights.mul_(update)
        weight_norm = _norms(self._weights, 2)
        alive = nonzero > 0
        counted = torch.where(alive, nonzero, self._sizes)
        update_norm = _norms(self._spare_views, 2)
        # Only a CPU can look at no cost: elsewhere asking would wait for the device, and what is compiled cannot ask.
        if not weights.is_cpu or torch.compiler.is_compiling() or not alive.all():
            update_norm = torch.where(alive, update_norm, _norms(self._views_of(update), 2))
        clip = (update_norm / counted.sqrt() / chosen.clip_rms).clamp_(min=1.0)
        scale = (weight_norm / self._sizes.sqrt()).clamp_(min=chosen.minimum_scale) * (
            self._sizes / counted
        ).sqrt()
        factors = (scale / clip).mul_(pace)
        torch._foreach_mul_(self._views_of(update), list(factors.unsqueeze(-1).unbind(1)))
        weights.add_(update)

    def _flat_views(self, buffer: Tensor) -> list[Tensor]:
        """[P, weights] of each parameter in a buffer of the parameters' layout."""
        return [view.flatten(1) for view in self._parameters.view_of(buffer).values()]

    def _views_of(self, update: Tensor) -> list[Tensor]:
        # A gradient is one and the same buffer at every step: to cut it anew takes a fifth of a small model's update.
        if torch.compiler.is_compiling():
            return self._flat_views(update)
        if self._cut is None or self._cut[0] is not update:
            self._cut = update, self._flat_views(update)
        return self._cut[1]


def _norms(views: Sequence[Tensor], order: int) -> Tensor:
    """The norm of each row of L views [P, n]: [P, L]. Whatever P is, as many calls; fewer for one model and on a GPU.

    On a CPU both ways sum a row in the same order.
    """
    if len(views[0]) == 1:
        return torch.stack(torch._foreach_norm(list(views), order))[None]
    if views[0].is_cuda:
        rows = [row for view in views for row in view.unbind()]
        return torch.stack(torch._foreach_norm(rows, order)).view(len(views), -1).t()
    return torch.stack([torch.linalg.vector_norm(view, order, dim=1) for view in views], 1)
