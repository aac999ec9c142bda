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


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs·weightᵀ + bias: [..., in], [out, in], [out], or [P, ..., in], [P, out, in], [P, out]."""
    if weight.dim() == 2:
        return F.linear(inputs, weight, bias)
    members, width = weight.shape[:2]
    rows = inputs.reshape(members, -1, inputs.shape[-1])
    if rows.is_cpu and not torch.is_autocast_enabled("cpu"):
        product: Tensor = _ModelByModel.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    elif bias is None:
        product = torch.bmm(rows, weight.transpose(1, 2))
    else:
        product = torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))
    return product.view(*inputs.shape[:-1], width)


class _ModelByModel(torch.autograd.Function):
    """inputs [P, rows, in], weight [P, out, in] and bias [P, out] or None to [P, rows, out], model by model."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.biased = bias is not None
        product = inputs.new_empty(*inputs.shape[:2], weight.shape[1])
        for place, (rows, one, out) in enumerate(zip(inputs, weight, product, strict=True)):
            if bias is None:
                torch.mm(rows, one.t(), out=out)
            else:
                torch.addmm(bias[place], rows, one.t(), out=out)
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
        return of_inputs, of_weight, gradients[0].sum(1) if ctx.biased else None


def joined(*weights: Tensor) -> Tensor:
    """Weights of layers that read the same inputs, as one: stacked along their outputs."""
    return torch.cat(weights, -2)


def rms_norm(inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last axis: weight [D], or [P, D] for inputs [P, B, T, D]."""
    width = (inputs.shape[-1],)
    if weight.dim() == 1:
        return F.rms_norm(inputs, width, weight, epsilon)
    return F.rms_norm(inputs, width, None, epsilon) * weight[:, None, None]


def layer_norm(inputs: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Layer norm over the last axis: weight and bias [D], or [P, D] for inputs [P, B, T, D]."""
    width = (inputs.shape[-1],)
    if weight.dim() == 1:
        return F.layer_norm(inputs, width, weight, bias, epsilon)
    if inputs.is_cpu and not torch.is_autocast_enabled("cpu"):
        # The library multiplies and adds at once, and sums the weight's gradient row by row.
        normed: Tensor = _NormModelByModel.apply(inputs, weight, bias, epsilon)  # type: ignore[no-untyped-call]
        return normed
    lone = (len(weight), *[1] * (inputs.dim() - 2), weight.shape[-1])
    return F.layer_norm(inputs, width, None, None, epsilon) * weight.view(lone) + bias.view(lone)


class _NormModelByModel(torch.autograd.Function):
    """inputs [P, ..., D], weight and bias [P, D]: the library's layer norm of one model after the other."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        normed = torch.empty_like(inputs)
        ctx.statistics = []
        for rows, scale, shift, out in zip(inputs, weight, bias, normed, strict=True):
            of_model, mean, deviation = torch.native_layer_norm(rows, scale.shape, scale, shift, epsilon)
            out.copy_(of_model)
            ctx.statistics.append((mean, deviation))
        ctx.save_for_backward(inputs, weight, bias)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        found = [
            torch.ops.aten.native_layer_norm_backward(
                gradient, rows, scale.shape, *statistics, scale, shift, [True, True, True]
            )
            for gradient, rows, scale, shift, statistics in zip(
                gradients[0].contiguous(), *ctx.saved_tensors, ctx.statistics, strict=True
            )
        ]
        return *(torch.stack(parts) for parts in zip(*found, strict=True)), None


def patches(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Square patches of images [B, C, H, W], mapped by weight [D, C, K, K] and bias [D]: [B, patches, D].

    Or of [P, B, C, H, W] by those of P models: this one layer is as many calls as there are models.
    """
    if weight.dim() == 4:
        return F.conv2d(images, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    return torch.stack([patches(*of_model) for of_model in zip(images, weight, bias, strict=True)])


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of `table` [V, D] by ids [...], or of each table of [P, V, D] by its ids [P, ...]."""
    if table.dim() == 2:
        return F.embedding(ids, table)
    members, rows, width = table.shape
    first = torch.arange(members, device=ids.device).view(members, *[1] * (ids.dim() - 1)) * rows
    return F.embedding(ids + first, table.reshape(members * rows, width))
