"""Iterative magnitude pruning with rewinding: the lottery ticket (Frankle et al. 2020, "Linear mode connectivity").

Train to the end of a round, keep the weights of highest magnitude, take weights and optimiser state back to step
`start`, train again. Every pruning keeps the same share of what the one before it kept; the last one is at the target,
and a whole round follows it. What a step means across rounds: `trainer.pruning.rounds`.
"""

from __future__ import annotations

from trainer.program import Pruning
from trainer.pruning.methods import Method, Rank


def _problems(pruning: Pruning, steps: int) -> list[str]:
    start, end, every = pruning.start, pruning.end, pruning.every
    if every < 1:
        return ["a round of imp has no step: take fewer rounds or more steps"]
    if start < 0 or end <= start or (end - start) % every:
        return [
            f"imp prunes from step {start} to {end} every {every}, which is no whole number of rounds: "
            "end − start must be a multiple of the round's length"
        ]
    if end + every != steps:
        return [f"the last round of imp would end at step {end + every}, not at the run's end, {steps}"]
    return []


def _level(pruning: Pruning, step: int) -> float:
    rounds = (pruning.end - pruning.start) // pruning.every
    done = min((step - pruning.start) // pruning.every, rounds)
    if done == rounds:
        return 1.0
    return float(1.0 - (1.0 - pruning.sparsity) ** (done / rounds)) / pruning.sparsity


def _before(pruning: Pruning, step: int) -> Rank | None:
    if not _first(pruning) <= step <= pruning.end or (step - pruning.start) % pruning.every:
        return None
    return Rank(_level(pruning, step))


def _first(pruning: Pruning) -> int:
    return pruning.start + pruning.every


METHOD = Method(
    window=(0.05, 0.75), problems=_problems, level=_level, before=_before, first=_first, rewinds=True
)
