"""A random mask from the first step on: what sparsity is worth when nothing chooses."""

from __future__ import annotations

from trainer.program import Pruning, first_update
from trainer.pruning.methods import Draw, Method
from trainer.pruning.methods.window import begins


def _before(pruning: Pruning, step: int) -> Draw | None:
    return Draw() if step == first_update(pruning) else None


METHOD = Method(window=(0.0, 0.0), problems=begins, level=lambda pruning, step: 1.0, before=_before)
