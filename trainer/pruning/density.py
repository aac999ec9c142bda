"""The kept share of linear weights over steps, computed from the schedule: FLOPs under sparse accounting come of it."""

from __future__ import annotations

from trainer.program import Pruning, first_update
from trainer.pruning.methods import method_for
from trainer.pruning.pruner import Layer


def densities(pruning: Pruning, layers: list[Layer], start: int, end: int) -> list[float]:
    """The share of linear weights that the forward pass of each of the steps [start, end) sees. 1 is dense."""
    if pruning.sparsity == 0:
        return [1.0] * (end - start)
    linear = [layer for layer in layers if layer.linear]
    whole = sum(layer.size for layer in linear)
    method, first = method_for(pruning.method), first_update(pruning)
    known: dict[float, float] = {0.0: 1.0}
    found = []
    for step in range(start, end):
        level = method.level(pruning, step) if step >= first else 0.0
        if level not in known:
            kept = sum(layer.keep(level) for layer in linear)
            known[level] = kept / whole
        found.append(known[level])
    return found
