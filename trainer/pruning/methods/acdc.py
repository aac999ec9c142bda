"""AC/DC (Peste et al. 2021): sparse and dense phases in turn, sparse from the last on.

Dense to `start`, then sparse and dense phases of `every` steps each up to `end`, sparse from there (RECIPE section 4:
start 10 %, phases of 1 %). Each sparse phase begins with a fresh ranking at the full target.
"""

from __future__ import annotations

from trainer.program import Pruning
from trainer.pruning.methods import Action, Method, Rank, Release
from trainer.pruning.methods.window import fits


def _problems(pruning: Pruning, steps: int) -> list[str]:
    found = fits(pruning, steps)
    if not found and (pruning.start % pruning.every or (pruning.end - pruning.start) % (2 * pruning.every)):
        found.append(
            f"AC/DC from step {pruning.start} to {pruning.end} is no whole number of sparse and dense phases of "
            f"{pruning.every} steps: start must be a multiple of the period, and end − start of twice the period"
        )
    return found


def _level(pruning: Pruning, step: int) -> float:
    if step >= pruning.end:
        return 1.0
    return float((step - pruning.start) // pruning.every % 2 == 0)


def _before(pruning: Pruning, step: int) -> Action | None:
    if not pruning.start <= step <= pruning.end or (step - pruning.start) % pruning.every:
        return None
    return Rank() if _level(pruning, step) else Release()


METHOD = Method(window=(0.1, 0.9), period=0.01, problems=_problems, level=_level, before=_before)
