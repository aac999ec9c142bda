"""Layers that take one model's weights, or those of several models stacked on a leading axis.

A pack of P models of one shape computes its forward pass at once: weights are [P, out, in] where one model has
[out, in], and activations [P, B, T, D] where it has [B, T, D]. Each layer is then still one operation, whatever P is.
For one model these are torch's own functions, to the bit.

On the CPU a product is computed model by model within the one operation: the library's batched product takes other
kernels for small matrices, so its last bits are not those of a model that is trained alone. These are, as long as
the rows of each model begin where vectors do: batches of a multiple of 16 rows see to that (see
`trainer.packing.changes_no_bit`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """inputs·weightᵀ: [..., in] and [out, in], or [P, ..., in] and [P, out, in]."""
    if weight.dim() == 2:
        return F.linear(inputs, weight)
    members, width = weight.shape[:2]
    rows = inputs.reshape(members, -1, inputs.shape[-1])
    if rows.is_cpu and not torch.is_autocast_enabled("cpu"):
        product: Tensor = _ModelByModel.apply(rows, weight)  # type: ignore[no-untyped-call]
    else:
        product = torch.bmm(rows, weight.transpose(1, 2))
    return product.view(*inputs.shape[:-1], width)


class _ModelByModel(torch.autograd.Function):
    """inputs [P, rows, in] and weight [P, out, in] to [P, rows, out], one product after the other."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        product = inputs.new_empty(*inputs.shape[:2], weight.shape[1])
        for rows, one, out in zip(inputs, weight, product, strict=True):
            torch.mm(rows, one.t(), out=out)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight = torch.empty_like(inputs), inputs.new_empty(weight.shape)
        for rows, one, gradient, to_rows, to_one in zip(
            inputs, weight, gradients[0], of_inputs, of_weight, strict=True
        ):
            torch.mm(gradient, one, out=to_rows)
            torch.mm(gradient.t(), rows, out=to_one)
        return of_inputs, of_weight


def joined(*weights: Tensor) -> Tensor:
    """Weights of layers that read the same inputs, as one: stacked along their outputs."""
    return torch.cat(weights, -2)


def rms_norm(inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last axis: weight [D], or [P, D] for inputs [P, B, T, D]."""
    width = (inputs.shape[-1],)
    if weight.dim() == 1:
        return F.rms_norm(inputs, width, weight, epsilon)
    return F.rms_norm(inputs, width, None, epsilon) * weight[:, None, None]


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of `table` [V, D] by ids [...], or of each table of [P, V, D] by its ids [P, ...]."""
    if table.dim() == 2:
        return F.embedding(ids, table)
    members, rows, width = table.shape
    first = torch.arange(members, device=ids.device).view(members, *[1] * (ids.dim() - 1)) * rows
    return F.embedding(ids + first, table.reshape(members * rows, width))
