"""Magnitude pruning at one step, straight to the target; the run then goes on with that mask."""

from __future__ import annotations

from trainer.program import Pruning, first_update
from trainer.pruning.methods import Method, Rank
from trainer.pruning.methods.window import begins


def _update(pruning: Pruning, step: int) -> Rank | None:
    return Rank() if step == first_update(pruning) else None


def _level(pruning: Pruning, step: int) -> float:
    return float(step > first_update(pruning))


METHOD = Method(window=(0.5, 0.5), problems=begins, level=_level, update=_update)
