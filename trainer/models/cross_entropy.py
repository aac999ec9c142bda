"""Mean cross-entropy with z-loss and label smoothing in one pass over the logits.

T5's loss (Raffel et al. 2020; the z-loss of mesh-tensorflow): mean of −log p(target) + z·log²Z. Its gradient is
softmax·(1 + 2z·log Z) − onehot, so one softmax serves both, and only the logits are kept for it. Smoothing by σ puts
(1 − σ)·onehot + σ/V in onehot's place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cross_entropy(
    logits: Tensor, targets: Tensor, z_loss: float, smoothing: float = 0.0, *, stacked: bool = False
) -> tuple[Tensor, Tensor]:
    """(what is minimised, plain mean cross-entropy without gradient), nats; logits [..., V], targets [...] int64.

    Computed in float32 at least, whatever precision the logits come in. stacked: the first axis is of P models, each
    with a mean of its own: the plain ones are [P], and what is minimised is their sum, so that each model has the
    gradient that it would have alone.
    """
    wide = logits.flatten(0, -2)
    wide = wide.float() if wide.dtype in (torch.bfloat16, torch.float16) else wide
    train, plain = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        wide, targets.flatten(), z_loss, smoothing, len(targets) if stacked else None
    )
    return train, plain


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, z_loss: float, smoothing: float, members: int | None
    ) -> tuple[Tensor, Tensor]:
        log_z = torch.logsumexp(logits, -1)
        chosen = logits.gather(1, targets[:, None])[:, 0]
        plain = _means(log_z - chosen, members)
        ctx.save_for_backward(logits, targets, log_z)
        ctx.z_loss, ctx.smoothing, ctx.rows = z_loss, smoothing, len(targets) // (members or 1)
        ctx.mark_non_differentiable(plain)
        train = plain + z_loss * _means(log_z * log_z, members)
        if smoothing:
            train = train + smoothing * _means(chosen - logits.mean(-1), members)
        return train if members is None else train.sum(), plain

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        logits, targets, log_z = ctx.saved_tensors
        share = gradients[0] / ctx.rows
        result = (logits - log_z[:, None]).exp_()
        result.mul_((share * (1 + 2 * ctx.z_loss * log_z))[:, None])
        if ctx.smoothing:
            result.sub_(share * ctx.smoothing / logits.shape[-1])
        result.scatter_add_(1, targets[:, None], (share * (ctx.smoothing - 1)).expand(len(targets))[:, None])
        return result, None, None, None, None


def _means(values: Tensor, members: int | None) -> Tensor:
    """Mean of [rows], or the mean of each of so many equal parts of it, [members]."""
    return values.mean() if members is None else values.view(members, -1).mean(-1)
