"""A masked language model over the parameters of `transformers.BertForMaskedLM`, with a forward pass of our own.

Post-norm layers, learned positions, gelu, biases, logits tied to the embedding; no dropout, one token type. As for T5
the pass is written out for the sake of small models, and a test holds it to the library's own. Logits are computed
for masked positions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models import Loss
from trainer.models.cross_entropy import cross_entropy
from trainer.models.stacked import embedding, joined, layer_norm, linear

_EPSILON = 1e-12


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> EncoderNetwork:
    """The network, its weights not yet those of any seed."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=dims["vocab_size"],
        hidden_size=dims["d_model"],
        num_hidden_layers=dims["layers"],
        num_attention_heads=dims["heads"],
        intermediate_size=dims["d_ff"],
        max_position_embeddings=dims["positions"],
        type_vocab_size=1,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=_EPSILON,
        tie_word_embeddings=True,
    )
    return EncoderNetwork(BertForMaskedLM(config), z_loss, smoothing)


class EncoderNetwork:
    """Loss of masked positions: inputs [B, T], positions and targets [B, K], int64, no padding.

    Where the module's weights are stacked, [P, out, in], so is everything else: inputs [P, B, T], losses [P].
    """

    def __init__(self, module: Any, z_loss: float, smoothing: float) -> None:
        self.module: nn.Module = module
        self._z_loss, self._smoothing = z_loss, smoothing
        self._heads: int = module.config.num_attention_heads

    def loss(self, batch: Mapping[str, Tensor]) -> Loss:
        """Mean over all masked positions."""
        logits = self.logits(batch["inputs"], batch["positions"])
        targets = batch["targets"]
        return Loss(
            *cross_entropy(logits, targets, self._z_loss, self._smoothing, stacked=targets.dim() == 3)
        )

    def logits(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """[B, K, V] at `positions` [B, K] of inputs [B, T]."""
        module: Any = self.module
        tables = module.bert.embeddings
        table = tables.word_embeddings.weight
        places = (
            tables.position_embeddings.weight[..., : inputs.shape[-1], :]
            + tables.token_type_embeddings.weight
        )
        hidden = _norm(tables.LayerNorm, embedding(inputs, table) + places.unsqueeze(-3))
        for layer in module.bert.encoder.layer:
            attended = self._attention(layer.attention.self, layer.attention.output.dense, hidden)
            hidden = _norm(layer.attention.output.LayerNorm, hidden + attended)
            inner = F.gelu(_linear(layer.intermediate.dense, hidden))
            hidden = _norm(layer.output.LayerNorm, hidden + _linear(layer.output.dense, inner))
        width = hidden.shape[-1]
        masked = hidden.gather(-2, positions[..., None].expand(*positions.shape, width))
        head = module.cls.predictions
        masked = _norm(head.transform.LayerNorm, F.gelu(_linear(head.transform.dense, masked)))
        return linear(masked, table, head.bias)

    def _attention(self, weights: Any, out: Any, hidden: Tensor) -> Tensor:
        *rows, length, width = hidden.shape
        parts = (weights.query, weights.key, weights.value)
        together = linear(
            hidden, joined(*(part.weight for part in parts)), torch.cat([part.bias for part in parts], -1)
        )
        apart = together.view(-1, length, 3, self._heads, width // self._heads)
        q, k, v = apart.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return _linear(out, mixed.transpose(1, 2).reshape(*rows, length, width))


def _linear(layer: Any, hidden: Tensor) -> Tensor:
    return linear(hidden, layer.weight, layer.bias)


def _norm(layer: Any, hidden: Tensor) -> Tensor:
    return layer_norm(hidden, layer.weight, layer.bias, _EPSILON)
