"""The mask core on a CPU, where asking for a value costs nothing: by selection, linear in the number of scores."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_highest_by_selection(scores: Tensor, keep: int | Tensor) -> Tensor:
    """Boolean mask, shaped as `scores`, of its `keep` highest values; ties go to the lower index. 0 ≤ keep ≤ numel."""
    flat, keep = scores.flatten(), int(keep)
    if keep <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if keep >= flat.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(flat, flat.numel() - keep + 1).values
    mask = flat > threshold
    missing = keep - int(mask.sum())
    ties = torch.nonzero(flat == threshold)[:missing, 0]
    mask[ties] = True
    return mask.view(scores.shape)
