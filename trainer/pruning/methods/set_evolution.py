"""SET, sparse evolutionary training (Mocanu et al. 2018): RigL's exchange, with random growth."""

from __future__ import annotations

from trainer.pruning.methods import Method
from trainer.pruning.methods.rigl import before, exchange
from trainer.pruning.methods.window import fits

METHOD = Method(
    window=(0.0, 0.75),
    problems=fits,
    level=lambda pruning, step: 1.0,
    before=before,
    update=lambda pruning, step: exchange(pruning, step, "random"),
    exchanges=True,
)
