"""The segment forest: what a set of programs shares is computed once.

All programs with one static part start in one state. They stay together as long as their pieces do the same; the tree
branches where pieces first differ, and is cut where a piece or a program ends. Every cut is a checkpoint: a dense
run's tip lies on the trunk of the pruned ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.program import Program


@dataclass(frozen=True, kw_only=True)
class PlannedSegment:
    """A stretch [start, end) of `program` after the state `parent`; `key` names the state after it."""

    key: str
    parent: str | None
    start: int
    end: int
    program: Program
    flops: float
    priority: int
    """GFLOPs on the longest way from this segment's start to a tip below it: long chains go first."""


@dataclass(frozen=True)
class Forest:
    """All segments, parents before children, and the path of each program (in the order given)."""

    segments: list[PlannedSegment]
    paths: list[list[str]]


@dataclass(frozen=True)
class _Walker:
    """One program on its way through the tree."""

    index: int
    program: Program
    until: tuple[int, ...]
    """Where each piece of its history ends."""
    does: tuple[str, ...]
    """What each piece does: equal texts, equal arithmetic."""


def forest(programs: Sequence[tuple[Program, float]]) -> Forest:
    """The forest of (program, FLOPs of one step) pairs. Equal programs share their whole path; programs whose static
    parts are equal cost the same a step."""
    groups: dict[str, list[_Walker]] = {}
    cost: list[float] = []
    for index, (program, flops_per_step) in enumerate(programs):
        until, does = zip(*program.history_text(), strict=True)
        groups.setdefault(program.static_text(), []).append(_Walker(index, program, until, does))
        cost.append(flops_per_step)
    builder = _Builder(cost)
    for walkers in groups.values():
        builder.grow(walkers, piece=0, start=0, parent=None, path=[])
    return Forest(builder.segments, [builder.paths[i] for i in range(len(programs))])


class _Builder:
    def __init__(self, cost: list[float]) -> None:
        self.cost = cost
        self.segments: list[PlannedSegment] = []
        self.paths: dict[int, list[str]] = {}

    def grow(
        self, walkers: Iterable[_Walker], *, piece: int, start: int, parent: str | None, path: list[str]
    ) -> None:
        """Grow the tree below one state, at which every walker stands with its piece of that index to do."""
        branches: dict[str, list[_Walker]] = {}
        for walker in walkers:
            branches.setdefault(walker.does[piece], []).append(walker)
        for branch in branches.values():
            self._branch(branch, piece, start, parent, path)

    def _branch(
        self, walkers: list[_Walker], piece: int, start: int, parent: str | None, path: list[str]
    ) -> None:
        path = list(path)
        # A program that goes on the longest stands for all: they agree up to wherever they are together.
        walkers = sorted(walkers, key=lambda walker: walker.program.steps, reverse=True)
        for end in sorted({walker.until[piece] for walker in walkers}):
            longest = walkers[0]
            key = longest.program.key_at(end)
            # Equal static parts cost the same a step: the longest way from here is that of whom goes on the longest.
            cost = self.cost[longest.index]
            self.segments.append(
                PlannedSegment(
                    key=key,
                    parent=parent,
                    start=start,
                    end=end,
                    program=longest.program,
                    flops=cost * (end - start),
                    priority=int(cost * (longest.program.steps - start) / 1e9),
                )
            )
            path.append(key)
            start, parent = end, key
            here = [walker for walker in walkers if walker.until[piece] == end]
            walkers = [walker for walker in walkers if walker.until[piece] > end]
            for walker in here:
                if walker.program.steps == end:
                    self.paths[walker.index] = list(path)
            onward = [walker for walker in here if walker.program.steps > end]
            if onward:
                self.grow(onward, piece=piece + 1, start=end, parent=key, path=path)
