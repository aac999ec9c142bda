"""Vision transformer over the parameters of `transformers.ViTForImageClassification`, with a forward pass of our own.

The same operations in the same order: a test holds it to the library's own, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models import Loss
from trainer.models.cross_entropy import cross_entropy
from trainer.models.stacked import layer_norm, linear, patches

_EPSILON = 1e-6


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> VitNetwork:
    """The network, its weights not yet those of any seed."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=dims["d_model"],
        num_hidden_layers=dims["layers"],
        num_attention_heads=dims["heads"],
        intermediate_size=dims["d_ff"],
        image_size=dims["image_size"],
        patch_size=dims["patch_size"],
        num_channels=dims["channels"],
        num_labels=dims["classes"],
        layer_norm_eps=_EPSILON,
    )
    return VitNetwork(ViTForImageClassification(config), bool(dims["sigmoid"]), z_loss, smoothing)


class VitNetwork:
    """Loss of images: pixels [B, C, H, W] float32 in [−1, 1], labels [B, room] int64, −1 where there is none.

    Where the module's weights are stacked, [P, out, in], so is everything else: pixels [P, B, C, H, W], losses [P].
    """

    def __init__(self, module: Any, sigmoid: bool, z_loss: float, smoothing: float) -> None:
        self.module: nn.Module = module
        self._sigmoid = sigmoid
        self._z_loss, self._smoothing = z_loss, smoothing
        self._heads: int = module.config.num_attention_heads

    def loss(self, batch: Mapping[str, Tensor]) -> Loss:
        """Softmax: mean cross-entropy. Sigmoid: binary cross-entropies, summed over classes, mean over images."""
        logits = self.logits(batch["pixels"])
        labels = batch["labels"]
        if not self._sigmoid:
            stacked = labels.dim() == 3
            return Loss(
                *cross_entropy(logits, labels[..., 0], self._z_loss, self._smoothing, stacked=stacked)
            )
        wide, classes = logits.float(), logits.shape[-1]
        # One class more takes the labels that are not there, and is cut off.
        places = torch.where(labels < 0, classes, labels)
        wanted = wide.new_zeros(*labels.shape[:-1], classes + 1).scatter(-1, places, 1.0)[..., :classes]
        each = F.binary_cross_entropy_with_logits(wide, wanted, reduction="none")
        total = each.flatten(-2).sum(-1) / labels.shape[-2]
        return Loss(total.sum(), total.detach())

    def logits(self, pixels: Tensor) -> Tensor:
        """[B, classes] of images [B, C, H, W]."""
        module: Any = self.module
        tables = module.vit.embeddings
        projection = tables.patch_embeddings.projection
        seen = patches(pixels, projection.weight, projection.bias)
        token = tables.cls_token.expand(*seen.shape[:-2], 1, seen.shape[-1])
        hidden = torch.cat((token, seen), -2) + tables.position_embeddings
        for layer in module.vit.layers:
            hidden = hidden + self._attention(layer.attention, _norm(layer.layernorm_before, hidden))
            inner = F.gelu(_linear(layer.mlp.fc1, _norm(layer.layernorm_after, hidden)))
            hidden = hidden + _linear(layer.mlp.fc2, inner)
        return _linear(module.classifier, _norm(module.vit.layernorm, hidden)[..., 0, :])

    def _attention(self, weights: Any, hidden: Tensor) -> Tensor:
        *rows, length, width = hidden.shape
        q, k, v = (
            _linear(part, hidden).view(-1, length, self._heads, width // self._heads).transpose(1, 2)
            for part in (weights.q_proj, weights.k_proj, weights.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return _linear(weights.o_proj, mixed.transpose(1, 2).reshape(*rows, length, width))


def _linear(layer: Any, hidden: Tensor) -> Tensor:
    return linear(hidden, layer.weight, layer.bias)


def _norm(layer: Any, hidden: Tensor) -> Tensor:
    return layer_norm(hidden, layer.weight, layer.bias, _EPSILON)
