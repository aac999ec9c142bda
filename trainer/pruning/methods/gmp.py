"""Gradual magnitude pruning (Zhu and Gupta 2017), the paper's method: a cubic from dense to the target.

Masks are computed at steps t in [start, end] that are multiples of `every`, and freeze after `end`. As in the paper's
code they rank the weights from before the update of step t, and are applied to the weights after it.
"""

from __future__ import annotations

from trainer.program import Pruning
from trainer.pruning.methods import Method, Rank
from trainer.pruning.methods.window import cubic, fits, is_update


def _problems(pruning: Pruning, steps: int) -> list[str]:
    found = fits(pruning, steps)
    if not found and pruning.end % pruning.every:
        found.append(
            f"pruning ends at step {pruning.end}, which is no multiple of the update period {pruning.every}: "
            "the target sparsity would never be reached"
        )
    return found


def _update(pruning: Pruning, step: int) -> Rank | None:
    return Rank(cubic(pruning, step)) if is_update(pruning, step) else None


def _level(pruning: Pruning, step: int) -> float:
    # In force is the mask of the last update before this step.
    update = min(step - 1, pruning.end) // pruning.every * pruning.every
    return cubic(pruning, update) if update >= pruning.start else 0.0


METHOD = Method(window=(0.25, 0.75), problems=_problems, level=_level, update=_update)
