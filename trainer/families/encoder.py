"""BERT-style masked language model: rules of shape, pruning and initialisation (network: `trainer/models/encoder.py`).

BERT-base (Devlin et al. 2019) scaled as T5 is: heads and layers fixed, widths by √scale. A layer has 4·d² + 2·d·d_ff
weights, 12·d² at d_ff = 4·d, which is the nominal count. N leaves out embeddings and the head, whose d·d transform
belongs to it; the logits are tied to the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.families.initial import ONES, ZEROS, Initial, normal
from trainer.families.library import check_config, dims_of
from trainer.families.scale import Stack
from trainer.families.structures import Structure, feed_forward
from trainer.families.text import VOCABULARY, counted, guessing, mismatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.models import Network

__all__ = ["OBJECTIVES", "OPTIONS", "VOCABULARY", "counted", "guessing", "mismatch"]

#: BERT-base. `positions`: the longest sequence that can be read, since positions are learned.
OPTIONS: dict[str, Any] = {
    "d_model": 768,
    "heads": 12,
    "d_ff": 3072,
    "layers": 12,
    "vocab_size": 30522,
    "positions": 512,
}

OBJECTIVES = ("masked",)
STACKED = True
LENGTH: str | None = "positions"


#: The one-matrix embeddings beside the layers.
_EMBEDDING = "bert.embeddings.word_embeddings.weight"
_TRANSFORM = "cls.predictions.transform.dense.weight"


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> Network:
    """The network, its weights not yet those of any seed."""
    from trainer.models import encoder

    return encoder.build(dims, z_loss=z_loss, smoothing=smoothing)


def stack(options: Mapping[str, Any]) -> Stack:
    """Four attention matrices a layer and a feed-forward of two."""
    layers = options["layers"]
    return Stack(layers=layers, attention=4 * layers, feed_forward=2 * layers)


def dims(options: Mapping[str, Any], width: int, hidden: int) -> dict[str, int]:
    """All dimensions of the encoder with these widths."""
    return {
        "vocab_size": options["vocab_size"],
        "positions": options["positions"],
        "d_model": width,
        "heads": options["heads"],
        "d_ff": hidden,
        "layers": options["layers"],
    }


def linear_count(dims: Mapping[str, int]) -> int:
    """Weights of the layers' linear maps, biases and the head left out."""
    width = dims["d_model"]
    return dims["layers"] * (4 * width**2 + 2 * width * dims["d_ff"])


def total_count(dims: Mapping[str, int]) -> int:
    """All parameters: linear weights, biases, norms, embeddings of ids, positions and the one type, the head."""
    width = dims["d_model"]
    layer = 4 * width + dims["d_ff"] + width + 4 * width
    head = width**2 + width + 2 * width + dims["vocab_size"]
    embeddings = width * (dims["vocab_size"] + dims["positions"] + 1) + 2 * width
    return linear_count(dims) + dims["layers"] * layer + head + embeddings


def flops_per_input(dims: Mapping[str, int]) -> float:
    """Training FLOPs of an input position, dense: 6 · linear weights."""
    return 6.0 * linear_count(dims)


def training_flops(dims: Mapping[str, int], inputs: int, targets: int) -> float:
    """FLOPs to train on one example with the sequence counted: linear layers, attention scores, transform and logits.

    The head runs over the `targets` masked positions only.
    """
    width = dims["d_model"]
    scores = 2 * width * dims["layers"] * inputs**2
    head = width * (width + dims["vocab_size"]) * targets
    return 6.0 * (linear_count(dims) * inputs + scores + head)


def prunable(name: str, dimensions: int) -> bool:
    """Every weight of two or more dimensions, but neither position nor type embeddings."""
    return dimensions >= 2 and "position_embeddings" not in name and "token_type" not in name


def shrinks_with_width(name: str) -> bool:
    """Whether a prunable weight is the embedding or the head's, which are pruned to 1 − √(1 − S)."""
    return name in (_EMBEDDING, _TRANSFORM)


def reductions(dims: Mapping[str, int]) -> dict[str, int]:
    """The lengths that the linear layers sum over, by name: groups of n:m patterns must divide them."""
    return {"d_model": dims["d_model"], "d_ff": dims["d_ff"]}


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """The dimensions of a `transformers` BERT. Raises ConfigError where it computes something else than ours."""
    needs = {
        "hidden_act": ("gelu", "gelu"),
        "layer_norm_eps": (1e-12, 1e-12),
        "tie_word_embeddings": (True, True),
        "position_embedding_type": ("absolute", "absolute"),
    }
    check_config(config, "bert", needs)
    keys = {
        **{"vocab_size": "vocab_size", "positions": "max_position_embeddings", "d_model": "hidden_size"},
        **{"heads": "num_attention_heads", "d_ff": "intermediate_size", "layers": "num_hidden_layers"},
    }
    return dims_of(config, keys)


def adapted(name: str, weight: NDArray[Any], config: Mapping[str, Any]) -> NDArray[Any]:
    """A weight of `transformers` as ours: of the token types, ours has the first alone."""
    return weight[:1] if "token_type_embeddings" in name else weight


def structures(dims: Mapping[str, int]) -> list[Structure]:
    """Heads and feed-forward features, which pattern `channel` removes whole; every linear weight is in one."""
    found = []
    for index in range(dims["layers"]):
        layer = f"bert.encoder.layer.{index}"
        ways_in = tuple(f"{layer}.attention.self.{name}.weight" for name in ("query", "key", "value"))
        found.append(Structure("heads", dims["heads"], ways_in, (f"{layer}.attention.output.dense.weight",)))
        found.append(feed_forward(layer, dims["d_ff"], into=("intermediate.dense",), out="output.dense"))
    return found


def initial(name: str, dims: Mapping[str, int]) -> Initial:
    """How a weight begins: norm scales at one, biases at zero, all else normal around zero.

    Matrices 1/√fan_in, as the other families, where BERT takes 0.02 for all: equal at fan_in 2500, and at the widths
    of a sweep's small models 0.02 would leave the layers nearly silent. Embeddings are 1/√d, since they are also the
    logits' matrix, and a norm follows their sum.
    """
    if name.endswith("bias"):
        return ZEROS
    if "LayerNorm" in name:
        return ONES
    hidden = name.endswith("output.dense.weight") and "attention" not in name
    return normal((dims["d_ff"] if hidden else dims["d_model"]) ** -0.5)
