"""The mask core where sorting is cheap and waiting for the device is not: CUDA."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_highest_by_sort(scores: Tensor, keep: int | Tensor) -> Tensor:
    """Boolean mask, shaped as `scores`, of its `keep` highest values; ties go to the lower index.

    A stable sort puts equal scores in the order of their indices, so the first `keep` places are the answer; `keep`
    (0-d, on the device of `scores`) is only compared with them. A GPU selects the k-th value 20 times more slowly
    than it sorts. 0 ≤ keep ≤ numel.
    """
    flat = scores.flatten()
    order = torch.argsort(flat, descending=True, stable=True)
    chosen = torch.arange(flat.numel(), device=scores.device) < keep
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order, chosen).view(scores.shape)
