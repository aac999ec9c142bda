"""Averages over the past: a language model for a test, which puts this file among the families as it is.

Each layer mixes the mean of all tokens so far into each position, and applies a feed-forward layer to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.families.initial import Initial, normal
from trainer.families.library import as_it_is, check_config
from trainer.families.scale import Stack
from trainer.families.structures import Structure
from trainer.families.text import VOCABULARY, counted, guessing, mismatch

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.models import Loss, Network

__all__ = ["VOCABULARY", "adapted", "counted", "guessing", "mismatch"]

OPTIONS: dict[str, Any] = {"d_model": 64, "heads": 1, "d_ff": 352, "layers": 2, "vocab_size": 384}
OBJECTIVES = ("causal",)
LENGTH: str | None = None
STACKED = False
adapted = as_it_is


def build(dims: Mapping[str, int], *, z_loss: float, smoothing: float = 0.0) -> Network:
    """The network, its weights not yet those of any seed."""
    import torch
    from torch import nn

    from trainer.models import Loss
    from trainer.models.cross_entropy import cross_entropy

    width, hidden = dims["d_model"], dims["d_ff"]
    module = nn.ModuleDict({"table": nn.Embedding(dims["vocab_size"], width)})
    for index in range(dims["layers"]):
        module[f"mix_{index}"] = nn.Linear(width, width, bias=False)
        module[f"in_{index}"] = nn.Linear(width, hidden, bias=False)
        module[f"out_{index}"] = nn.Linear(hidden, width, bias=False)

    class Averages:
        def __init__(self) -> None:
            self.module: nn.Module = module

        def loss(self, batch: Mapping[str, Tensor]) -> Loss:
            past = module["table"](batch["inputs"])
            count = torch.arange(1, past.shape[1] + 1, device=past.device)[:, None]
            for index in range(dims["layers"]):
                past = past + module[f"mix_{index}"](past.cumsum(1) / count)
                past = past + module[f"out_{index}"](torch.relu(module[f"in_{index}"](past)))
            logits = past @ module["table"].weight.T
            return Loss(*cross_entropy(logits, batch["targets"], z_loss, smoothing))

    return Averages()


def stack(options: Mapping[str, Any]) -> Stack:
    layers = options["layers"]
    return Stack(layers=layers, attention=layers, feed_forward=2 * layers)


def dims(options: Mapping[str, Any], width: int, hidden: int) -> dict[str, int]:
    named = {name: options[name] for name in ("heads", "layers", "vocab_size")}
    return {**named, "d_model": width, "d_ff": hidden}


def linear_count(dims: Mapping[str, int]) -> int:
    return dims["layers"] * (dims["d_model"] ** 2 + 2 * dims["d_model"] * dims["d_ff"])


def total_count(dims: Mapping[str, int]) -> int:
    return linear_count(dims) + dims["vocab_size"] * dims["d_model"]


def flops_per_input(dims: Mapping[str, int]) -> float:
    return 6.0 * linear_count(dims)


def training_flops(dims: Mapping[str, int], inputs: int, targets: int) -> float:
    return flops_per_input(dims) * inputs + 6.0 * dims["vocab_size"] * dims["d_model"] * targets


def prunable(name: str, dimensions: int) -> bool:
    return dimensions >= 2


def shrinks_with_width(name: str) -> bool:
    return name.startswith("table")


def reductions(dims: Mapping[str, int]) -> dict[str, int]:
    return {"d_model": dims["d_model"], "d_ff": dims["d_ff"]}


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    check_config(config, "no such model", {})
    return {}


def structures(dims: Mapping[str, int]) -> list[Structure]:
    return [
        Structure("d_ff", dims["d_ff"], (f"in_{index}.weight",), (f"out_{index}.weight",))
        for index in range(dims["layers"])
    ]


def initial(name: str, dims: Mapping[str, int]) -> Initial:
    fan_in = dims["d_ff"] if name.startswith("out") else dims["d_model"]
    return normal(fan_in**-0.5)
