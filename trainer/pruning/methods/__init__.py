"""Pruning methods as data: what happens to the masks at which step. No torch here; one file and one line each.

A method says what to do before a step's forward pass and with its optimiser update; the `Pruner` carries it out for
any pattern and distribution. All methods are dense before `trainer.program.first_update`, which is what lets a dense
trunk serve them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from trainer.parts import Pruning

#: Methods by the name that a spec uses → module in this package.
METHODS = {
    "gmp": "gmp",
    "acdc": "acdc",
    "ste": "ste",
    "sr-ste": "sr_ste",
    "rigl": "rigl",
    "set": "set_evolution",
    "static": "static",
    "oneshot": "oneshot",
    "imp": "imp",
}


@dataclass(frozen=True)
class Rank:
    """Keep the weights of highest magnitude, at `level` times the target sparsity of each layer."""

    level: float = 1.0


@dataclass(frozen=True)
class Draw:
    """Keep weights at random, at the target sparsity."""


@dataclass(frozen=True)
class Release:
    """Let all weights live."""


@dataclass(frozen=True)
class Exchange:
    """Drop `share` of the kept weights, lowest magnitude first, and grow as many.

    by: `gradient` (highest magnitude of the dense gradient) or `random`. Grown weights and their optimiser state
    start at zero.
    """

    share: float
    by: str


Action = Rank | Draw | Release | Exchange


def _nothing(pruning: Pruning, step: int) -> Action | None:
    return None


def first_of_window(pruning: Pruning) -> int:
    """The first multiple of `every` that is at least `start`."""
    return math.ceil(pruning.start / pruning.every) * pruning.every


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method.

    window: default start and end of pruning, as shares of a run.
    period: default `every`, in steps; below 1 as a share of a run.
    problems: what is wrong with these settings for a run of so many steps.
    level: the share of the target sparsity in force while step t is computed, t ≥ the first update.
    before: the action before the forward pass of step t. update: the action with its optimiser update: a Rank looks
    at the weights from before it and acts on those after it, an Exchange does both after it.
    through: the forward pass sees masked weights while the dense ones live on (straight-through); masks are then
    computed anew at `level` for every step. decay: pulls masked weights to zero by so much of themselves, in the
    gradient.
    exchanges: masks move weight by weight, which keeps no n:m groups.
    first: the first step that prunes; before it the run is dense.
    rewinds: each `before` also takes weights and optimiser state back to step `start` (`trainer.pruning.rounds`).
    """

    window: tuple[float, float]
    period: float = 100
    problems: Callable[[Pruning, int], list[str]]
    level: Callable[[Pruning, int], float]
    before: Callable[[Pruning, int], Action | None] = _nothing
    update: Callable[[Pruning, int], Action | None] = _nothing
    through: bool = False
    decay: float = 0.0
    exchanges: bool = False
    first: Callable[[Pruning], int] = first_of_window
    rewinds: bool = False


@lru_cache
def method_for(name: str) -> Method:
    """The method of a name. Raises KeyError on an unknown one."""
    method: Method = importlib.import_module(f"trainer.pruning.methods.{METHODS[name]}").METHOD
    return method
