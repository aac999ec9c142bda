"""Decoder-only language model: rules of shape, pruning and initialisation (network: `trainer/models/decoder.py`).

The paper's extension (RECIPE section 3): d 768, 12 heads of 64, 12 layers, gated feed-forward of 2048, embeddings tied
to the logits. A layer has 4·d² + 3·d·d_ff weights, which at these widths is the 12·d² of the nominal count exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import ShapeError
from trainer.families.initial import ONES, Initial, normal
from trainer.families.library import ConfigError, as_it_is, check_config, dims_of
from trainer.families.scale import Stack
from trainer.families.structures import Structure, attention, feed_forward
from trainer.families.text import VOCABULARY, counted, guessing, mismatch

if TYPE_CHECKING:
    from trainer.models import Network

__all__ = ["OBJECTIVES", "OPTIONS", "VOCABULARY", "counted", "guessing", "mismatch"]

OPTIONS: dict[str, Any] = {
    "d_model": 768,
    "heads": 12,
    "d_ff": 2048,
    "layers": 12,
    "vocab_size": 32128,
}

OBJECTIVES = ("causal",)
STACKED = True
LENGTH: str | None = None


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> Network:
    """The network, its weights not yet those of any seed."""
    from trainer.models import decoder

    return decoder.build(dims, z_loss=z_loss, smoothing=smoothing)


def stack(options: Mapping[str, Any]) -> Stack:
    """Four attention matrices a layer and a gated feed-forward of three; rotary positions turn pairs of features."""
    layers = options["layers"]
    return Stack(layers=layers, attention=4 * layers, feed_forward=3 * layers, head_unit=2)


def dims(options: Mapping[str, Any], width: int, hidden: int) -> dict[str, int]:
    """All dimensions of the decoder with these widths. Raises ShapeError on heads of an odd width."""
    if width // options["heads"] % 2:
        raise ShapeError(f"heads of width {width // options['heads']} are odd: rotary positions turn pairs")
    return {
        "vocab_size": options["vocab_size"],
        "d_model": width,
        "heads": options["heads"],
        "d_ff": hidden,
        "layers": options["layers"],
    }


def linear_count(dims: Mapping[str, int]) -> int:
    """Weights of all linear layers, the tied logits left out."""
    width = dims["d_model"]
    return dims["layers"] * (4 * width**2 + 3 * width * dims["d_ff"])


def total_count(dims: Mapping[str, int]) -> int:
    """All parameters: linear weights, the tied embedding, norms."""
    width = dims["d_model"]
    return linear_count(dims) + dims["vocab_size"] * width + width * (2 * dims["layers"] + 1)


def flops_per_input(dims: Mapping[str, int]) -> float:
    """Training FLOPs of an input position, dense: 6 · linear weights."""
    return 6.0 * linear_count(dims)


def training_flops(dims: Mapping[str, int], inputs: int, targets: int) -> float:
    """FLOPs to train on one example with the sequence counted: linear layers, attention scores and logits.

    Scores count in full, as dense attention kernels compute them, not halved for the causal mask.
    """
    width = dims["d_model"]
    scores = 2 * width * dims["layers"] * inputs**2
    return 6.0 * (linear_count(dims) * inputs + scores + dims["vocab_size"] * width * targets)


def prunable(name: str, dimensions: int) -> bool:
    """Every weight of two or more dimensions: linear layers and the tied embedding."""
    return dimensions >= 2


def shrinks_with_width(name: str) -> bool:
    """Whether a prunable weight is the embedding, which is pruned to 1 − √(1 − S)."""
    return name == "model.embed_tokens.weight"


def reductions(dims: Mapping[str, int]) -> dict[str, int]:
    """The lengths that the linear layers sum over, by name: groups of n:m patterns must divide them."""
    return {"d_model": dims["d_model"], "d_ff": dims["d_ff"]}


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """The dimensions of a `transformers` Llama. Raises ConfigError where it computes something else than ours."""
    needs = {
        "hidden_act": ("gelu_pytorch_tanh", "silu"),
        "rms_norm_eps": (1e-6, 1e-6),
        "tie_word_embeddings": (True, False),
        "attention_bias": (False, False),
        "mlp_bias": (False, False),
        "num_key_value_heads": (config.get("num_attention_heads"), config.get("num_attention_heads")),
    }
    check_config(config, "llama", needs)
    rotary = config.get("rope_parameters") or {
        "rope_type": (config.get("rope_scaling") or {}).get("rope_type", "default"),
        "rope_theta": config.get("rope_theta", 10_000.0),
    }
    if (rotary.get("rope_type"), rotary.get("rope_theta")) != ("default", 10_000.0):
        raise ConfigError(f"its rotary positions are {rotary!r}; this family's are plain, of base 10000")
    keys = {
        **{"vocab_size": "vocab_size", "d_model": "hidden_size", "heads": "num_attention_heads"},
        **{"d_ff": "intermediate_size", "layers": "num_hidden_layers"},
    }
    return dims_of(config, keys)


adapted = as_it_is


def structures(dims: Mapping[str, int]) -> list[Structure]:
    """Heads and feed-forward features, which pattern `channel` removes whole; every linear weight is in one."""
    found = []
    for index in range(dims["layers"]):
        layer = f"model.layers.{index}"
        found.append(attention(f"{layer}.self_attn", dims["heads"], suffix="_proj"))
        found.append(
            feed_forward(f"{layer}.mlp", dims["d_ff"], into=("gate_proj", "up_proj"), out="down_proj")
        )
    return found


def initial(name: str, dims: Mapping[str, int]) -> Initial:
    """How a weight begins: norm scales at one, all else normal around zero.

    Linear layers 1/√fan_in, as T5 without its query factor, since these scores are scaled. The embedding is also the
    logits' matrix: 1/√d keeps first logits of order one, and the norm before each layer makes up for small inputs.
    """
    if name.endswith("norm.weight"):
        return ONES
    fan_in = dims["d_ff"] if name.endswith("down_proj.weight") else dims["d_model"]
    return normal(fan_in**-0.5)
