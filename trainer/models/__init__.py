"""Networks of the families, over the parameters of the `transformers` model of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainer import families


class Loss(NamedTuple):
    """train: what is minimised (z-loss and smoothing included); reported: mean cross-entropy, nats per target."""

    train: Tensor
    reported: Tensor


class Network(Protocol):
    """module: the `transformers` model; loss: a batch to its two losses, one forward pass."""

    module: nn.Module

    def loss(self, batch: Mapping[str, Tensor]) -> Loss: ...


def build(
    family: str, dims: Mapping[str, int], seed: int, *, z_loss: float, smoothing: float = 0.0
) -> Network:
    """The network of a family with the initial weights of `seed`, which depend on nothing but seed, name and shape."""
    network: Network = families.rules(family).build(dims, z_loss=z_loss, smoothing=smoothing)
    initialise(network.module, family, dims, seed)
    return network


def build_stacked(
    family: str,
    dims: Mapping[str, int],
    weights: Mapping[str, Tensor],
    *,
    z_loss: float,
    smoothing: float = 0.0,
) -> Network:
    """The network of P models of one shape over their weights: name → [P, *shape], which it shares and does not copy.

    Its batches are [P, B, …] and its reported losses [P]; what is minimised is the sum over the models.
    """
    with torch.device("meta"):  # only the tree of names is wanted
        network: Network = families.rules(family).build(dims, z_loss=z_loss, smoothing=smoothing)
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        setattr(network.module.get_submodule(owner), leaf, nn.Parameter(weight))
    return network


@torch.no_grad()
def initialise(module: nn.Module, family: str, dims: Mapping[str, int], seed: int) -> None:
    """Fill all parameters by the family's rule; each weight has its own generator, keyed by its name."""
    rules = families.rules(family)
    for name, parameter in module.named_parameters():
        mean, deviation = rules.initial(name, dims)
        parameter.fill_(mean)
        if not deviation:
            continue
        key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(key)
        parameter.add_(torch.randn(parameter.shape, generator=generator) * deviation)
