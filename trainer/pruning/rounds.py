"""Training in rounds that go back to one point: what a step means across them (iterative magnitude pruning, `imp`).

A run counts its steps straight through, rounds and all, since that is what it costs. Steps [0, start + every) are a
dense run of that length. Each later round is again `every` steps long and repeats steps [start, start + every) from
the weights and the optimiser state at `start`: with the batches, the learning rates and the optimiser's step counts
that belong to them. No torch here: keys and plans are made of it.
"""

from __future__ import annotations

from trainer.parts import Pruning
from trainer.pruning.methods import method_for


def rewinds(pruning: Pruning) -> bool:
    """Whether this pruning goes back to `start` after each round."""
    return pruning.sparsity > 0 and method_for(pruning.method).rewinds


def begins(pruning: Pruning, step: int) -> bool:
    """Whether a further round begins with `step`: weights and optimiser state go back before it."""
    if not rewinds(pruning) or step > pruning.end:
        return False
    rounds, rest = divmod(step - pruning.start, pruning.every)
    return rounds > 0 and rest == 0


def clock(pruning: Pruning, step: int) -> int:
    """The step of the first round that `step` repeats: it reads that batch, at that learning rate."""
    if step < pruning.start + pruning.every or not rewinds(pruning):
        return step
    return pruning.start + (step - pruning.start) % pruning.every


def horizon(pruning: Pruning, steps: int) -> int:
    """The length that a learning-rate schedule counts with: that of a run which ends with its first round."""
    return pruning.start + pruning.every if rewinds(pruning) else steps


def in_rounds(start: int, rounds: int, steps: int) -> tuple[int, int, int]:
    """(start, end, every) of `rounds` prunings in a run of `steps`.

    Rounds are as long as fit behind `start`; what is left over moves the rewind point back by less than a step a round.
    """
    every = (steps - start) // (rounds + 1)
    start = steps - (rounds + 1) * every
    return start, start + rounds * every, every
