"""Vision transformer: rules of shape, pruning and initialisation (network: `trainer/models/vit.py`).

B/16 scaled as T5 is (RECIPE section 3): heads and layers fixed, widths by √scale. A layer has 4·d² + 2·d·d_ff weights,
12·d² at d_ff = 4·d, which is the nominal count. N leaves out patch embedding and head; D counts images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import ShapeError
from trainer.families.initial import ONES, ZEROS, Initial, normal
from trainer.families.library import as_it_is, check_config, dims_of
from trainer.families.scale import Stack
from trainer.families.structures import Structure, attention, feed_forward

if TYPE_CHECKING:
    from trainer.models import Network

#: ViT-B/16. `loss`: softmax for one label an image, sigmoid for the paper's independent yes or no per class.
OPTIONS: dict[str, Any] = {
    "d_model": 768,
    "heads": 12,
    "d_ff": 3072,
    "layers": 12,
    "image_size": 224,
    "patch_size": 16,
    "channels": 3,
    "classes": 1000,
    "loss": "softmax",
}

OBJECTIVES = ("image-classification",)
STACKED = True
VOCABULARY = "classes"
LENGTH: str | None = None

#: Bias of the head under the sigmoid loss: every class begins as very unlikely (big_vision).
HEAD_BIAS = -10.0


def counted(sequence_length: int) -> int:
    """What the law's D counts in one example: the image."""
    return 1


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> Network:
    """The network, its weights not yet those of any seed."""
    from trainer.models import vit

    return vit.build(dims, z_loss=z_loss, smoothing=smoothing)


def stack(options: Mapping[str, Any]) -> Stack:
    """Four attention matrices a layer and a feed-forward of two."""
    layers = options["layers"]
    return Stack(layers=layers, attention=4 * layers, feed_forward=2 * layers)


def dims(options: Mapping[str, Any], width: int, hidden: int) -> dict[str, int]:
    """All dimensions of the ViT with these widths. Raises ShapeError on patches that do not tile the image."""
    if options["image_size"] % options["patch_size"]:
        raise ShapeError(
            f"patches of {options['patch_size']} do not tile an image of {options['image_size']}"
        )
    if options["loss"] not in ("softmax", "sigmoid"):
        raise ShapeError(f"loss {options['loss']!r} is unknown for vit: use softmax or sigmoid")
    return {
        **{
            name: options[name]
            for name in ("image_size", "patch_size", "channels", "classes", "heads", "layers")
        },
        "d_model": width,
        "d_ff": hidden,
        "sigmoid": int(options["loss"] == "sigmoid"),
    }


def linear_count(dims: Mapping[str, int]) -> int:
    """Weights of the layers' linear maps, biases left out."""
    width = dims["d_model"]
    return dims["layers"] * (4 * width**2 + 2 * width * dims["d_ff"])


def total_count(dims: Mapping[str, int]) -> int:
    """All parameters: linear weights, biases, norms, patch and position embeddings, the class token, the head."""
    width = dims["d_model"]
    biases = dims["layers"] * (4 * width + dims["d_ff"] + width)
    norms = 2 * width * (2 * dims["layers"] + 1)
    patch = width * (dims["channels"] * dims["patch_size"] ** 2 + 1)
    return (
        linear_count(dims)
        + biases
        + norms
        + patch
        + width * (1 + positions(dims))
        + dims["classes"] * (width + 1)
    )


def positions(dims: Mapping[str, int]) -> int:
    """Patches of an image and the class token."""
    return int((dims["image_size"] // dims["patch_size"]) ** 2 + 1)


def flops_per_input(dims: Mapping[str, int]) -> float:
    """Training FLOPs of an image, dense: 6 · linear weights · positions."""
    return 6.0 * linear_count(dims) * positions(dims)


def training_flops(dims: Mapping[str, int], inputs: int, targets: int) -> float:
    """FLOPs to train on `inputs` images with attention scores, patch embedding and head counted."""
    width, length = dims["d_model"], positions(dims)
    patch = (length - 1) * width * dims["channels"] * dims["patch_size"] ** 2
    scores = 2 * width * dims["layers"] * length**2
    return inputs * (flops_per_input(dims) + 6.0 * (patch + scores + dims["classes"] * width))


def mismatch(dims: Mapping[str, int], manifest: Mapping[str, Any]) -> str | None:
    """Why a model of these dimensions cannot read prepared data of this manifest; None where it can."""
    image = manifest.get("image")
    if image is None:
        return "the data are text; this family reads images"
    wanted = {"height": dims["image_size"], "width": dims["image_size"], "channels": dims["channels"]}
    if image != wanted:
        return (
            f"the images are {image['height']} × {image['width']} × {image['channels']}, the model reads "
            f"{wanted['height']} × {wanted['width']} × {wanted['channels']}: set model.image_size and model.channels"
        )
    if manifest["vocab_size"] > dims["classes"]:
        return f"the images have {manifest['vocab_size']} classes, the model {dims['classes']}: raise model.classes"
    if not dims["sigmoid"] and not manifest["fewest_labels"] == manifest["labels"] == 1:
        return "softmax needs exactly one label an image, these have several or none: set model.loss: sigmoid"
    return None


def guessing(dims: Mapping[str, int]) -> float:
    """The loss of guessing, nats: uniformly under softmax, yes or no by a coin for every class under sigmoid.

    With few classes the latter is less than the loss of the sigmoid's beginning, at which no run is lost.
    """
    return max(dims["classes"] * math.log(2), -HEAD_BIAS) if dims["sigmoid"] else math.log(dims["classes"])


def prunable(name: str, dimensions: int) -> bool:
    """Every weight of two or more dimensions, but neither position embeddings nor the class token."""
    return dimensions >= 2 and not name.endswith(("position_embeddings", "cls_token"))


def shrinks_with_width(name: str) -> bool:
    """Whether a prunable weight is the patch embedding or the head, which are pruned to 1 − √(1 − S)."""
    return "patch_embeddings" in name or name == "classifier.weight"


def reductions(dims: Mapping[str, int]) -> dict[str, int]:
    """The lengths that the linear layers sum over, by name: groups of n:m patterns must divide them."""
    return {"d_model": dims["d_model"], "d_ff": dims["d_ff"]}


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """The dimensions of a `transformers` ViT. Its norms' ε of 1e-12 becomes ours, 1e-6, which changes little.

    Raises ConfigError where it computes something else than ours.
    """
    check_config(config, "vit", {"hidden_act": ("gelu", "gelu"), "qkv_bias": (True, True)})
    keys = {
        **{name: name for name in ("image_size", "patch_size")},
        **{"channels": "num_channels", "heads": "num_attention_heads", "layers": "num_hidden_layers"},
        **{"d_model": "hidden_size", "d_ff": "intermediate_size"},
    }
    several = config.get("problem_type") == "multi_label_classification"
    # Two labels are the library's default, which its files leave out.
    return {**dims_of(config, keys), "classes": len(config.get("id2label") or "12"), "sigmoid": int(several)}


adapted = as_it_is


def structures(dims: Mapping[str, int]) -> list[Structure]:
    """Heads and feed-forward features, which pattern `channel` removes whole; every linear weight is in one."""
    found = []
    for index in range(dims["layers"]):
        layer = f"vit.layers.{index}"
        found.append(attention(f"{layer}.attention", dims["heads"], suffix="_proj"))
        found.append(feed_forward(f"{layer}.mlp", dims["d_ff"], into=("fc1",), out="fc2"))
    return found


def initial(name: str, dims: Mapping[str, int]) -> Initial:
    """How a weight begins: 1/√fan_in for matrices, 1/√d for positions, zeros for biases and the class token."""
    width = dims["d_model"]
    if name == "classifier.bias":
        return Initial(HEAD_BIAS, 0.0) if dims["sigmoid"] else ZEROS
    if name.endswith((".bias", "cls_token")):
        return ZEROS
    if "layernorm" in name:
        return ONES
    if "patch_embeddings" in name:
        return normal((dims["channels"] * dims["patch_size"] ** 2) ** -0.5)
    return normal((dims["d_ff"] if name.endswith("fc2.weight") else width) ** -0.5)
