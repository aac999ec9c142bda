"""T5 v1.1 over the parameters of `transformers.T5ForConditionalGeneration`, with a forward pass of our own.

The weights, names and arithmetic are the library's; the pass is written out because tiny models spend most of a step
in the library's per-layer bookkeeping. A test holds it to the library's own forward on the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.families.t5 import BUCKETS, MAX_DISTANCE
from trainer.models import Loss
from trainer.models.cross_entropy import cross_entropy
from trainer.models.stacked import embedding, joined, linear, rms_norm

_EPSILON = 1e-6


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> T5Network:
    """The network, its weights not yet those of any seed."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=dims["vocab_size"],
        d_model=dims["d_model"],
        d_kv=dims["d_kv"],
        d_ff=dims["d_ff"],
        num_heads=dims["heads"],
        num_layers=dims["encoder_layers"],
        num_decoder_layers=dims["decoder_layers"],
        relative_attention_num_buckets=BUCKETS,
        relative_attention_max_distance=MAX_DISTANCE,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        use_cache=False,
    )
    module = T5ForConditionalGeneration(config)
    # transformers 5 ties the logits to the embedding whatever the configuration says; v1.1 has logits of its own.
    module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    return T5Network(module, z_loss, smoothing)


class T5Network:
    """Encoder-decoder loss of span-corrupted batches: inputs [B, T] and targets [B, S], int64, no padding.

    Where the module's weights are stacked, [P, out, in], so is everything else: inputs [P, B, T], losses [P].
    """

    def __init__(self, module: Any, z_loss: float, smoothing: float) -> None:
        self.module: nn.Module = module
        self._z_loss, self._smoothing = z_loss, smoothing
        self._heads: int = module.config.num_heads
        self._buckets: dict[tuple[int, bool], Tensor] = {}
        self._causal: dict[int, Tensor] = {}

    def loss(self, batch: Mapping[str, Tensor]) -> Loss:
        """Mean over all target positions; the decoder starts from the padding id 0."""
        targets = batch["targets"]
        logits = self.logits(batch["inputs"], F.pad(targets[..., :-1], (1, 0)))
        return Loss(
            *cross_entropy(logits, targets, self._z_loss, self._smoothing, stacked=targets.dim() == 3)
        )

    def logits(self, inputs: Tensor, decoder_inputs: Tensor) -> Tensor:
        """[B, S, V] from inputs [B, T] and decoder inputs [B, S]."""
        module: Any = self.module
        encoder, decoder = module.encoder, module.decoder
        hidden = embedding(inputs, module.shared.weight)
        bias = self._bias(encoder, inputs.shape[-1], causal=False)
        for block in encoder.block:
            attention, forward = block.layer
            hidden = hidden + self._self_attention(attention, hidden, bias)
            hidden = hidden + _feed_forward(forward, hidden)
        encoded = _norm(encoder.final_layer_norm, hidden)

        hidden = embedding(decoder_inputs, module.shared.weight)
        bias = self._bias(decoder, decoder_inputs.shape[-1], causal=True)
        for block in decoder.block:
            attention, cross, forward = block.layer
            hidden = hidden + self._self_attention(attention, hidden, bias)
            hidden = hidden + self._cross_attention(cross, hidden, encoded)
            hidden = hidden + _feed_forward(forward, hidden)
        return linear(_norm(decoder.final_layer_norm, hidden), module.lm_head.weight)

    def _self_attention(self, layer: Any, hidden: Tensor, bias: Tensor) -> Tensor:
        weights = layer.SelfAttention
        all_three = joined(weights.q.weight, weights.k.weight, weights.v.weight)
        q, k, v = self._split(linear(_norm(layer.layer_norm, hidden), all_three), 3)
        return self._attend(q, k, v, bias, weights.o.weight, hidden.shape[:-2])

    def _cross_attention(self, layer: Any, hidden: Tensor, encoded: Tensor) -> Tensor:
        weights = layer.EncDecAttention
        (q,) = self._split(linear(_norm(layer.layer_norm, hidden), weights.q.weight), 1)
        k, v = self._split(linear(encoded, joined(weights.k.weight, weights.v.weight)), 2)
        return self._attend(q, k, v, None, weights.o.weight, hidden.shape[:-2])

    def _split(self, together: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[..., T, parts·H·K] to `parts` tensors [rows·H, T, K]; rows: all the axes in front as one."""
        length, width = together.shape[-2:]
        head_width = width // (parts * self._heads)
        apart = together.view(-1, length, parts, self._heads, head_width).permute(2, 0, 3, 1, 4)
        return apart.reshape(parts, -1, length, head_width).unbind(0)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor, rows: torch.Size
    ) -> Tensor:
        """softmax(q·kᵀ + bias)·v, heads joined and projected; T5 does not scale the scores. [*rows, T, D]"""
        scores = torch.bmm(q, k.transpose(1, 2))
        if bias is not None:
            scores = (scores.view(*rows, self._heads, *scores.shape[1:]) + bias).view(scores.shape)
        mixed = torch.bmm(torch.softmax(scores, -1), v)
        mixed = mixed.view(*rows, self._heads, *mixed.shape[1:]).transpose(-3, -2).flatten(-2)
        return linear(mixed, out)

    def _bias(self, stack: Any, length: int, *, causal: bool) -> Tensor:
        """Relative-position bias [1, H, length, length] (stacked: [P, 1, …]), −∞ above the diagonal where causal."""
        attention = stack.block[0].layer[0].SelfAttention
        table = attention.relative_attention_bias.weight
        key = (length, causal)
        if key not in self._buckets:
            place = torch.arange(length)
            self._buckets[key] = attention._relative_position_bucket(
                place[None, :] - place[:, None], not causal, BUCKETS, MAX_DISTANCE
            ).to(table.device)
        stacked = table.shape[:-2]
        bias = embedding(self._buckets[key].expand(*stacked, -1, -1), table)
        bias = bias.movedim(-1, -3).unsqueeze(-4)
        if not causal:
            return bias
        if length not in self._causal:
            self._causal[length] = torch.full((length, length), float("-inf")).triu(1).to(table.device)
        return bias + self._causal[length]


def _norm(layer: Any, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, layer.weight, _EPSILON)


def _feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    weights = layer.DenseReluDense
    both = joined(weights.wi_0.weight, weights.wi_1.weight)
    gate, value = linear(_norm(layer.layer_norm, hidden), both).chunk(2, -1)
    return linear(F.gelu(gate, approximate="tanh") * value, weights.wo.weight)
