"""The learning rate as a function of the step; the same pieces that `Program.history()` compares."""

from __future__ import annotations

import math

from trainer.program import LearningRate


def learning_rate(rate: LearningRate, step: int, steps: int) -> float:
    """The relative step size of step `step` (from 0) of a run of `steps`.

    rsqrt: base / √max(step, warmup) (RECIPE section 4): level over the warm-up, or rising linearly, as the paper's ViTs
    are trained (section 3); with a cooldown that value times a line to zero over the last `cooldown` steps. constant
    and cosine: base, after a linear warm-up.
    """
    warm = min(1.0, (step + 1) / rate.warmup) if rate.warmup else 1.0
    if rate.schedule == "rsqrt":
        value = rate.base / math.sqrt(max(step, rate.warmup, 1))
        if rate.linear_warmup:
            value *= warm
        if rate.cooldown:
            value *= min(1.0, (steps - step) / (rate.cooldown + 1))
        return value
    if rate.schedule == "constant":
        return rate.base * warm
    if rate.schedule == "cosine":
        progress = min(1.0, max(0.0, (step - rate.warmup) / max(1, steps - rate.warmup)))
        return rate.base * warm * 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"learning-rate schedule {rate.schedule!r} is unknown")
