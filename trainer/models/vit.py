"""Vision transformer: the parameters and the forward pass of `transformers.ViTForImageClassification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models import Loss
from trainer.models.cross_entropy import cross_entropy


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
        layer_norm_eps=1e-6,
    )
    return VitNetwork(ViTForImageClassification(config), bool(dims["sigmoid"]), z_loss, smoothing)


class VitNetwork:
    """Loss of images: pixels [B, C, H, W] float32 in [−1, 1], labels [B] int64."""

    def __init__(self, module: Any, sigmoid: bool, z_loss: float, smoothing: float) -> None:
        self.module: nn.Module = module
        self._sigmoid = sigmoid
        self._z_loss, self._smoothing = z_loss, smoothing

    def loss(self, batch: Mapping[str, Tensor]) -> Loss:
        """Softmax: mean cross-entropy. Sigmoid: binary cross-entropies, summed over classes, mean over images."""
        logits = self.module(pixel_values=batch["pixels"]).logits
        labels = batch["labels"]
        if not self._sigmoid:
            return Loss(*cross_entropy(logits, labels[:, 0], self._z_loss, self._smoothing))
        wide, classes = logits.float(), logits.shape[-1]
        # One class more takes the labels that are not there, and is cut off.
        places = torch.where(labels < 0, classes, labels)
        wanted = wide.new_zeros(len(labels), classes + 1).scatter(1, places, 1.0)[:, :classes]
        total = F.binary_cross_entropy_with_logits(wide, wanted, reduction="sum") / len(wanted)
        return Loss(total, total.detach())
