"""T5 v1.1: rules of shape, pruning and initialisation. No torch here; the network is in `trainer/models/t5.py`.

Paper, section 3 and appendix A: a model at scale s has widths times √s, heads and layers as the base; N is counted
as 12·d² for each of the 24 layers, which leaves cross-attention out and takes the gated feed-forward at 8·d².
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.families.initial import ONES, Initial, normal
from trainer.families.library import check_config, dims_of
from trainer.families.scale import Stack
from trainer.families.structures import Structure, attention, feed_forward
from trainer.families.text import VOCABULARY, counted, guessing, mismatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.models import Network

__all__ = ["OBJECTIVES", "OPTIONS", "VOCABULARY", "counted", "guessing", "mismatch"]

#: T5 v1.1 base.
OPTIONS: dict[str, Any] = {
    "d_model": 768,
    "heads": 12,
    "d_ff": 2048,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "vocab_size": 32128,
}

OBJECTIVES = ("span-corruption",)
STACKED = True
LENGTH: str | None = None

#: Fixed by T5 v1.1: relative-position buckets and the distance beyond which all positions share one.
BUCKETS = 32
MAX_DISTANCE = 128


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> Network:
    """The network, its weights not yet those of any seed."""
    from trainer.models import t5

    return t5.build(dims, z_loss=z_loss, smoothing=smoothing)


def stack(options: Mapping[str, Any]) -> Stack:
    """Four attention matrices a layer, eight with cross-attention; a gated feed-forward of three."""
    encoder, decoder = options["encoder_layers"], options["decoder_layers"]
    return Stack(
        layers=encoder + decoder, attention=4 * encoder + 8 * decoder, feed_forward=3 * (encoder + decoder)
    )


def dims(options: Mapping[str, Any], width: int, hidden: int) -> dict[str, int]:
    """All dimensions of the T5 with these widths."""
    return {
        "vocab_size": options["vocab_size"],
        "d_model": width,
        "d_kv": width // options["heads"],
        "heads": options["heads"],
        "d_ff": hidden,
        "encoder_layers": options["encoder_layers"],
        "decoder_layers": options["decoder_layers"],
    }


def linear_count(dims: Mapping[str, int]) -> int:
    """Weights of the encoder's and decoder's linear layers, cross-attention included."""
    encoder, decoder = _stack_counts(dims)
    return encoder + decoder


def total_count(dims: Mapping[str, int]) -> int:
    """All parameters: linear weights, embeddings, logits, norms, relative-position tables."""
    width = dims["d_model"]
    norms = width * (2 * dims["encoder_layers"] + 3 * dims["decoder_layers"] + 2)
    return linear_count(dims) + 2 * dims["vocab_size"] * width + norms + 2 * BUCKETS * dims["heads"]


def flops_per_input(dims: Mapping[str, int]) -> float:
    """Training FLOPs of an input position, dense: 6 · linear weights."""
    return 6.0 * linear_count(dims)


def training_flops(dims: Mapping[str, int], inputs: int, targets: int) -> float:
    """FLOPs to train on one example with the sequence counted: linear layers, attention scores and logits.

    Each multiply-add counts 2 forward and 4 backward. Cross-attention keys and values run over the inputs.
    """
    width, inner = dims["d_model"], dims["heads"] * dims["d_kv"]
    encoder, decoder = _stack_counts(dims)
    over_inputs = 2 * width * inner * dims["decoder_layers"]
    linear = encoder * inputs + (decoder - over_inputs) * targets + over_inputs * inputs
    scores = (
        2
        * inner
        * (dims["encoder_layers"] * inputs**2 + dims["decoder_layers"] * (targets**2 + targets * inputs))
    )
    return 6.0 * (linear + scores + dims["vocab_size"] * width * targets)


def prunable(name: str, dimensions: int) -> bool:
    """Every weight of two or more dimensions except the relative-position tables."""
    return dimensions >= 2 and "relative_attention_bias" not in name


def shrinks_with_width(name: str) -> bool:
    """Whether a prunable weight is an embedding or the logits, which are pruned to 1 − √(1 − S)."""
    return name in ("shared.weight", "lm_head.weight")


def reductions(dims: Mapping[str, int]) -> dict[str, int]:
    """The lengths that the linear layers sum over, by name: groups of n:m patterns must divide them."""
    return {
        "d_model": dims["d_model"],
        "heads·d_kv": dims["heads"] * dims["d_kv"],
        "d_ff": dims["d_ff"],
    }


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """The dimensions of a `transformers` T5. Raises ConfigError where it is no T5 of the v1.1 kind."""
    needs = {
        "feed_forward_proj": ("gated-gelu", "relu"),
        "relative_attention_num_buckets": (BUCKETS, 32),
        "relative_attention_max_distance": (MAX_DISTANCE, 128),
        "layer_norm_epsilon": (1e-6, 1e-6),
    }
    check_config(config, "t5", needs)
    keys = {
        **{name: name for name in ("vocab_size", "d_model", "d_kv")},
        **{"heads": "num_heads", "d_ff": "d_ff"},
        **{"encoder_layers": "num_layers", "decoder_layers": "num_decoder_layers"},
    }
    return dims_of(config, keys)


def adapted(name: str, weight: NDArray[Any], config: Mapping[str, Any]) -> NDArray[Any]:
    """A weight of `transformers` as ours: tied logits are scaled by 1/√d there, which is folded into the matrix."""
    if name == "lm_head.weight" and config["scale_decoder_outputs"]:
        scaled: NDArray[Any] = weight * weight.dtype.type(config["d_model"] ** -0.5)
        return scaled
    return weight


def structures(dims: Mapping[str, int]) -> list[Structure]:
    """Heads and feed-forward features, which pattern `channel` removes whole; every linear weight is in one."""
    found = []
    for stack, layers, attentions in (
        ("encoder", dims["encoder_layers"], ("SelfAttention",)),
        ("decoder", dims["decoder_layers"], ("SelfAttention", "EncDecAttention")),
    ):
        for index in range(layers):
            block = f"{stack}.block.{index}.layer"
            found += [
                attention(f"{block}.{place}.{name}", dims["heads"]) for place, name in enumerate(attentions)
            ]
            last = f"{block}.{len(attentions)}.DenseReluDense"
            found.append(feed_forward(last, dims["d_ff"], into=("wi_0", "wi_1"), out="wo"))
    return found


def initial(name: str, dims: Mapping[str, int]) -> Initial:
    """How a weight begins: norm scales at one, all else normal around zero.

    T5's factor rules: 1/√fan_in, queries with the 1/√d_kv that attention leaves out folded in, embeddings 1, and
    the untied logits 1/√d as in T5X (transformers takes 1 there, which starts √d too loud).
    """
    width, inner = dims["d_model"], dims["heads"] * dims["d_kv"]
    if name.endswith("norm.weight"):
        return ONES
    if name == "shared.weight":
        return normal(1.0)
    if name.endswith(".q.weight"):
        return normal((width * dims["d_kv"]) ** -0.5)
    if name.endswith(".o.weight"):
        return normal(inner**-0.5)
    if name.endswith(".wo.weight"):
        return normal(dims["d_ff"] ** -0.5)
    return normal(width**-0.5)


def _stack_counts(dims: Mapping[str, int]) -> tuple[int, int]:
    width, inner = dims["d_model"], dims["heads"] * dims["d_kv"]
    forward = 3 * width * dims["d_ff"]
    encoder = dims["encoder_layers"] * (4 * width * inner + forward)
    decoder = dims["decoder_layers"] * (8 * width * inner + forward)
    return encoder, decoder
