"""RigL (Evci et al. 2020): a random mask, whose weakest weights give way to those of highest gradient.

The exchanged share starts at 0.3 and falls to zero by a cosine over the window (RECIPE section 4). A weight that is
dropped and grown in one exchange keeps its value, as in the authors' code.
"""

from __future__ import annotations

import math

from trainer.program import Pruning, first_update
from trainer.pruning.methods import Draw, Exchange, Method
from trainer.pruning.methods.window import fits, is_update

#: Share of the kept weights that the first exchange replaces.
SHARE = 0.3


def before(pruning: Pruning, step: int) -> Draw | None:
    """The random mask that all begins with."""
    return Draw() if step == first_update(pruning) else None


def exchange(pruning: Pruning, step: int, by: str) -> Exchange | None:
    """The exchange at this step, if there is one."""
    if not is_update(pruning, step) or step == first_update(pruning):
        return None
    progress = (step - pruning.start) / (pruning.end - pruning.start)
    return Exchange(SHARE / 2 * (1 + math.cos(math.pi * progress)), by)


METHOD = Method(
    window=(0.0, 0.75),
    problems=fits,
    level=lambda pruning, step: 1.0,
    before=before,
    update=lambda pruning, step: exchange(pruning, step, "gradient"),
    exchanges=True,
)
