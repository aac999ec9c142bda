"""A causal language model over the parameters of `transformers.LlamaForCausalLM`, with a forward pass of our own.

Pre-norm layers, rotary positions, gated tanh-gelu feed-forward, embeddings tied to the logits, no biases. As for T5
the pass is written out for the sake of small models, and a test holds it to the library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models import Loss
from trainer.models.cross_entropy import cross_entropy
from trainer.models.stacked import embedding, joined, linear, rms_norm

_EPSILON = 1e-6
_ROTARY_BASE = 10_000.0


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> DecoderNetwork:
    """The network, its weights not yet those of any seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=dims["vocab_size"],
        hidden_size=dims["d_model"],
        intermediate_size=dims["d_ff"],
        num_hidden_layers=dims["layers"],
        num_attention_heads=dims["heads"],
        num_key_value_heads=dims["heads"],
        hidden_act="gelu_pytorch_tanh",
        rms_norm_eps=_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": _ROTARY_BASE},
        tie_word_embeddings=True,
        use_cache=False,
    )
    return DecoderNetwork(LlamaForCausalLM(config), z_loss, smoothing)


class DecoderNetwork:
    """Loss of the next token: inputs and targets [B, T], int64, no padding.

    Where the module's weights are stacked, [P, out, in], so is everything else: inputs [P, B, T], losses [P].
    """

    def __init__(self, module: Any, z_loss: float, smoothing: float) -> None:
        self.module: nn.Module = module
        self._z_loss, self._smoothing = z_loss, smoothing
        self._heads: int = module.config.num_attention_heads
        self._rotations: dict[int, tuple[Tensor, Tensor]] = {}

    def loss(self, batch: Mapping[str, Tensor]) -> Loss:
        """Mean over all positions."""
        targets = batch["targets"]
        logits = self.logits(batch["inputs"])
        return Loss(
            *cross_entropy(logits, targets, self._z_loss, self._smoothing, stacked=targets.dim() == 3)
        )

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, T, V] from inputs [B, T]."""
        model: Any = self.module.model
        hidden = embedding(inputs, model.embed_tokens.weight)
        for layer in model.layers:
            hidden = hidden + self._attention(layer.self_attn, _norm(layer.input_layernorm, hidden))
            hidden = hidden + _feed_forward(layer.mlp, _norm(layer.post_attention_layernorm, hidden))
        return linear(_norm(model.norm, hidden), model.embed_tokens.weight)

    def _attention(self, weights: Any, hidden: Tensor) -> Tensor:
        *rows, length, width = hidden.shape
        all_three = joined(weights.q_proj.weight, weights.k_proj.weight, weights.v_proj.weight)
        apart = linear(hidden, all_three).view(-1, length, 3, self._heads, width // self._heads)
        q, k, v = apart.permute(2, 0, 3, 1, 4).unbind(0)
        cosine, sine = self._rotation(length, width // self._heads, hidden.device)
        mixed = F.scaled_dot_product_attention(
            _rotate(q, cosine, sine), _rotate(k, cosine, sine), v, is_causal=True
        )
        return linear(mixed.transpose(1, 2).reshape(*rows, length, width), weights.o_proj.weight)

    def _rotation(self, length: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary angles, each [T, K] (Su et al. 2021)."""
        if length not in self._rotations:
            exponent = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
            place = torch.arange(length, dtype=torch.float32)
            angles = torch.outer(place, 1.0 / _ROTARY_BASE**exponent).repeat(1, 2)
            self._rotations[length] = angles.cos().to(device), angles.sin().to(device)
        return self._rotations[length]


def _rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = vectors.chunk(2, -1)
    return vectors * cosine + torch.cat((-second, first), -1) * sine


def _norm(layer: Any, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, layer.weight, _EPSILON)


def _feed_forward(weights: Any, hidden: Tensor) -> Tensor:
    both = joined(weights.gate_proj.weight, weights.up_proj.weight)
    gate, value = linear(hidden, both).chunk(2, -1)
    return linear(F.gelu(gate, approximate="tanh") * value, weights.down_proj.weight)
