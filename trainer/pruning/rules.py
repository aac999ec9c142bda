"""What may be asked of pruning, checked when a program is made: no run starts that could not hit its target."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from trainer import families
from trainer.families.structures import Structure
from trainer.pruning.distributions import DISTRIBUTIONS
from trainer.pruning.methods import METHODS, method_for

if TYPE_CHECKING:
    from trainer.program import Program


class Unstructured(NamedTuple):
    """Any weight may stay."""


class Groups(NamedTuple):
    """An n:m pattern: at most `kept` of every `size` weights along the reduction axis."""

    kept: int
    size: int

    @property
    def sparsity(self) -> float:
        """1 − n/m, the only sparsity at which the pattern is exact."""
        return 1 - self.kept / self.size


class Blocks(NamedTuple):
    """Tiles of `rows` outputs × `columns` inputs that stay or go whole."""

    rows: int
    columns: int


class Channels(NamedTuple):
    """Heads and feed-forward features that stay or go whole, over all weights that have a share in them."""


Pattern = Unstructured | Groups | Blocks | Channels


@lru_cache(maxsize=256)
def parsed(pattern: str) -> Pattern:
    """A pattern's name as a value. Raises ValueError on an unknown one."""
    if pattern in ("unstructured", "channel"):
        return Unstructured() if pattern == "unstructured" else Channels()
    if found := re.fullmatch(r"(\d+):(\d+)", pattern):
        groups = Groups(int(found[1]), int(found[2]))
        if 0 < groups.kept < groups.size:
            return groups
    # One name a pattern: names are part of keys.
    if found := re.fullmatch(r"block:([1-9]\d*)x([1-9]\d*)", pattern):
        blocks = Blocks(int(found[1]), int(found[2]))
        if blocks != (1, 1):
            return blocks
    raise ValueError(
        f"pattern {pattern!r} is unknown: use unstructured, n:m with n < m such as 2:4, "
        "block:AxB (A outputs by B inputs) such as block:4x4, or channel"
    )


def groups_of(pattern: str) -> Groups | None:
    """The groups of an n:m pattern, None for another. Raises ValueError on an unknown one."""
    found = parsed(pattern)
    return found if isinstance(found, Groups) else None


def _summing(structures: Sequence[Structure], axis: str) -> str:
    """The first layer that sums over an axis: what is cut by it has it in columns, all ways in have the width."""
    cut = next((one.columns for one in structures if axis.startswith(one.what)), structures[0].rows)
    return cut[0].removesuffix(".weight")


def misfits(family: str, dims: Mapping[str, int], pattern: str, sparsity: float) -> list[str]:
    """Why layers of these dimensions cannot have that pattern; each names the dimension and what would be right."""
    kind, found = parsed(pattern), []
    rules = families.rules(family)
    if isinstance(kind, Groups):
        layers = rules.structures(dims)
        found = [
            f"{axis} is {size}, which groups of {kind.size} do not divide ({_summing(layers, axis)} sums over it): "
            f"set model.multiple_of: {kind.size}"
            for axis, size in rules.reductions(dims).items()
            if size % kind.size
        ]
    if isinstance(kind, Blocks):
        # Every dimension is the output of one layer and the input of another.
        both = math.lcm(*kind)
        found = [
            f"{axis} is {size}, which blocks of {kind.rows} × {kind.columns} do not tile: set model.multiple_of: {both}"
            for axis, size in rules.reductions(dims).items()
            if size % both
        ]
    if isinstance(kind, Channels):
        heads = dims["heads"]
        kept = heads * (1 - sparsity)
        if abs(kept - round(kept)) > 1e-9 or kept < 0.5:
            found = [
                f"pattern channel removes whole heads, and a share of {sparsity:g} of {heads} heads is no whole "
                "number that leaves one: change model.heads or the sparsity"
            ]
    return found


def unsuited(method: str, pattern: str, distribution: str) -> dict[str, str]:
    """`pattern`, `distribution` → why the other two of a pruning do not go with it; empty: they all go together."""
    exchanges, kind, found = method_for(method).exchanges, parsed(pattern), {}
    if distribution == "global" and exchanges:
        found["distribution"] = f"{method} exchanges weights within a layer: use distribution uniform or erk"
    if isinstance(kind, Unstructured):
        return found
    if exchanges:
        found["pattern"] = f"{method} moves single weights, which keeps no pattern {pattern}"
    if isinstance(kind, Groups | Channels) and distribution != "uniform":
        found["distribution"] = (
            f"pattern {pattern} has the same sparsity in every layer: use distribution uniform"
        )
    if isinstance(kind, Blocks) and distribution == "global":
        found["distribution"] = (
            f"pattern {pattern} ranks the blocks of a layer: use distribution uniform or erk"
        )
    return found


def problems(program: Program) -> list[str]:
    """Everything that is wrong with a program's pruning; each says what would be right."""
    pruning = program.pruning
    if pruning.sparsity == 0:
        return []
    if pruning.method not in METHODS:
        return [f"pruning method {pruning.method!r} is unknown: use {', '.join(METHODS)}"]
    method = method_for(pruning.method)
    found = method.problems(pruning, program.steps)
    if pruning.distribution not in DISTRIBUTIONS:
        found.append(f"distribution {pruning.distribution!r} is unknown: use {', '.join(DISTRIBUTIONS)}")
    try:
        kind = parsed(pruning.pattern)
    except ValueError as reason:
        return [*found, str(reason)]
    found += unsuited(pruning.method, pruning.pattern, pruning.distribution).values()
    if isinstance(kind, Groups) and abs(pruning.sparsity - kind.sparsity) > 1e-9:
        found.append(
            f"pattern {pruning.pattern} has sparsity {kind.sparsity:g}, not {pruning.sparsity:g}: "
            "choose the one by the other"
        )
    return found + misfits(program.family, program.shape, pruning.pattern, pruning.sparsity)
