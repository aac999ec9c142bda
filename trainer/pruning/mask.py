"""The mask core: (scores, keep count) → mask. Exact count, ties to the lower index, pure.

A tie is broken by the index in row-major order, so a mask depends on the scores alone, not on a sort's whims.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.pruning.bisection import as_count, keep_highest_by_bisection
from trainer.pruning.selection import keep_highest_by_selection
from trainer.pruning.sorting import keep_highest_by_sort

#: Device type → the core that is fastest there; anything else sorts. A backend may bring its own.
CORES: dict[str, Callable[[Tensor, int | Tensor], Tensor]] = {
    "cpu": keep_highest_by_selection,
    "cuda": keep_highest_by_sort,
    "xla": keep_highest_by_bisection,
}


def keep_count(size: int, sparsity: float) -> int:
    """How many of `size` weights stay at `sparsity`: max(1, round(size·(1 − sparsity))) (RECIPE section 4)."""
    return max(1, round(size * (1.0 - sparsity)))


def keep_highest(scores: Tensor, keep: int | Tensor) -> Tensor:
    """Boolean mask, shaped as `scores`, of its `keep` highest values; ties go to the lower index. 0 ≤ keep ≤ numel.

    Each kind of device has the way that is fastest there; all give the same mask. Off the CPU nothing waits for the
    device, and nothing compiled depends on the value of `keep`.
    """
    return CORES.get(scores.device.type, keep_highest_by_sort)(scores, keep)


def keep_highest_in_groups(scores: Tensor, keep: int | Tensor, kept: int, size: int) -> Tensor:
    """As `keep_highest`, but the top `kept` of every `size` scores along the last axis rank above all others.

    The paper's iterative n:m (RECIPE section 4): at keep = numel·n/m the mask is exactly n:m, on the way there it
    holds as much of the pattern as fits. Scores must not be negative. Raises ValueError where groups do not divide.
    """
    if scores.shape[-1] % size:
        raise ValueError(
            f"{scores.shape[-1]} weights along the last axis are no whole number of groups of {size}"
        )
    first = _top_of_groups(scores, kept, size)
    count = scores.numel() // size * kept
    below = torch.full((), -1.0, dtype=scores.dtype, device=scores.device)
    if isinstance(keep, int) and scores.device.type != "xla":
        if keep <= count:
            return keep_highest(torch.where(first, scores, below), keep)
        return first | keep_highest(torch.where(first, below, scores), keep - count)
    # Both halves always, so that the program is the same on either side of n/m: XLA records this, and compiles it.
    wanted = as_count(keep, scores.device)
    inside = keep_highest(torch.where(first, scores, below), wanted.clamp(max=count))
    return inside | keep_highest(torch.where(first, below, scores), (wanted - count).clamp(min=0))


def _top_of_groups(scores: Tensor, kept: int, size: int) -> Tensor:
    """Mask of the `kept` highest of every `size` along the last axis, by counting who beats whom: no sort."""
    groups = scores.reshape(-1, size)
    place = torch.arange(size, device=scores.device)
    rank = torch.zeros(groups.shape, dtype=torch.int16, device=scores.device)
    for index in range(size):
        rival = groups[:, index : index + 1]
        rank += (rival > groups) | ((rival == groups) & (index < place))
    return (rank < kept).view(scores.shape)
