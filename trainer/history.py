"""What a run does over its steps, in pieces: equal pieces mean equal arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from trainer.canonical import canonical_text
from trainer.parts import LearningRate, Pruning, Switch
from trainer.pruning.methods import method_for
from trainer.pruning.rounds import horizon


class Piece(NamedTuple):
    """What the run does on steps before `until` (exclusive; steps count from 0), after the piece before it."""

    until: int
    does: Mapping[str, Any]


def history_of(rate: LearningRate, pruning: Pruning, then: Switch | None, steps: int) -> list[Piece]:
    """What a run with these does over [0, steps), in maximal pieces."""
    end = horizon(pruning, steps)
    learning_rate = _learning_rate_pieces(rate, end)
    if end < steps:
        # Further rounds repeat the first one's rates; which steps of it, the mask's piece says.
        learning_rate.append(Piece(steps, {**_stated(rate), "cooldown": rate.cooldown, "horizon": end}))
    mask = _mask_pieces(pruning, steps)
    # The first stream is static; only what comes after a switch is said, so all else has the keys that it had.
    data = [Piece(steps, {})] if then is None else [Piece(then.at, {}), Piece(steps, _switched(then))]
    edges = sorted({piece.until for part in (learning_rate, mask, data) for piece in part})
    return _merged(
        [
            Piece(
                until,
                {"learning_rate": _at(learning_rate, until), "mask": _at(mask, until), **_at(data, until)},
            )
            for until in edges
        ]
    )


def _switched(then: Switch) -> dict[str, Any]:
    return {"data": dataclasses.asdict(then.data), "since": then.at}


@lru_cache(maxsize=4096)
def history_text(
    rate: LearningRate, pruning: Pruning, then: Switch | None, steps: int
) -> tuple[tuple[int, str], ...]:
    """(until, what the piece does, in canonical form) of each piece of `history_of`."""
    pieces = history_of(rate, pruning, then, steps)
    return tuple((piece.until, canonical_text(piece.does)) for piece in pieces)


def _stated(rate: LearningRate) -> dict[str, Any]:
    """What holds over all steps. What is as it always was is not said, so that keys stay what they were."""
    rising = {"linear_warmup": True} if rate.linear_warmup else {}
    return {"schedule": rate.schedule, "base": rate.base, "warmup": rate.warmup, **rising}


def _learning_rate_pieces(rate: LearningRate, steps: int) -> list[Piece]:
    plain = _stated(rate)
    if rate.schedule == "constant":
        return [Piece(steps, plain)]
    if rate.schedule == "rsqrt":
        if not rate.cooldown:
            return [Piece(steps, plain)]
        cooled = {**plain, "cooldown": rate.cooldown, "horizon": steps}
        return [Piece(steps - rate.cooldown, plain), Piece(steps, cooled)]
    # Cosine knows its horizon from the first step after the warm-up: nothing to share with another length.
    return [Piece(steps, {**plain, "horizon": steps})]


def first_update(pruning: Pruning) -> int:
    """The first step that prunes: as a rule the first multiple of `every` that is at least `start`."""
    return method_for(pruning.method).first(pruning)


def _mask_pieces(pruning: Pruning, steps: int) -> list[Piece]:
    dense: dict[str, Any] = {"method": "dense"}
    if pruning.sparsity == 0:
        return [Piece(steps, dense)]
    masked = dataclasses.asdict(pruning)
    begins = min(first_update(pruning), steps)
    return _merged([Piece(begins, dense), Piece(steps, masked)])


def _at(pieces: list[Piece], until: int) -> Mapping[str, Any]:
    return next(piece.does for piece in pieces if piece.until >= until)


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if piece.until <= (merged[-1].until if merged else 0):
            continue
        if merged and merged[-1].does == piece.does:
            merged[-1] = piece
        else:
            merged.append(piece)
    return merged


def clipped(pieces: Iterable[tuple[int, str]], step: int) -> Iterator[tuple[int, str]]:
    """The pieces of the first `step` steps, the last of them cut there."""
    begin = 0
    for until, does in pieces:
        if begin >= step:
            return
        yield min(until, step), does
        begin = until
