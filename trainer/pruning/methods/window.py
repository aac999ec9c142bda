"""Checks and curves that methods with a pruning window share."""

from __future__ import annotations

from trainer.program import Pruning, first_update


def fits(pruning: Pruning, steps: int) -> list[str]:
    """The window lies within the run, with an update in it and a step after its last one."""
    if not 0 <= pruning.start < pruning.end <= steps:
        return [
            f"pruning runs from step {pruning.start} to {pruning.end}, which does not fit into {steps} steps"
        ]
    if pruning.every < 1:
        return [f"the update period is {pruning.every}: it must be at least 1"]
    if pruning.end >= steps:
        return [f"pruning ends at step {pruning.end}: the last update must come before step {steps}"]
    if first_update(pruning) > pruning.end:
        return [
            f"pruning runs from step {pruning.start} to {pruning.end}, and no update falls into that: updates come at "
            f"multiples of {pruning.every}; take a shorter period"
        ]
    return []


def begins(pruning: Pruning, steps: int) -> list[str]:
    """The first update lies within the run."""
    if pruning.every < 1:
        return [f"the update period is {pruning.every}: it must be at least 1"]
    if pruning.start < 0 or first_update(pruning) >= steps:
        return [f"pruning starts at step {pruning.start}: the first update must come before step {steps}"]
    return []


def is_update(pruning: Pruning, step: int) -> bool:
    """Whether `step` is one of the window's regular updates: the multiples of `every` in [start, end]."""
    return pruning.start <= step <= pruning.end and step % pruning.every == 0


def cubic(pruning: Pruning, step: int) -> float:
    """1 − (1 − p)³, p = clip((t + 1 − start)/(end − start), 0, 1): Zhu and Gupta 2017, as in RECIPE section 4."""
    progress = (step + 1 - pruning.start) / (pruning.end - pruning.start)
    return 1.0 - (1.0 - min(1.0, max(0.0, progress))) ** 3
