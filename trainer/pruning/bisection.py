"""The mask core where shapes are static and sorting is slow: XLA. The k-th highest score by bisection over its bits.

The bits of a non-negative float, read as an integer, are in the order of the floats. So 31 halvings of the range of
integers find the k-th highest score exactly, each a comparison and a sum, and as many halvings of the range of indices
find up to where its equals are kept. With `keep` on the device one program serves every sparsity. Only thresholds are
made from bits, by exact arithmetic: torch-xla cannot read an array's bits without a detour over the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Bits of a float32's fraction; its exponents count from 0 (below 2⁻¹²⁶) to 255 (infinite).
_FRACTION, _EXPONENTS = 23, 256


def keep_highest_by_bisection(scores: Tensor, keep: int | Tensor) -> Tensor:
    """Boolean mask, shaped as `scores` (float32), of its `keep` highest values; ties go to the lower index.

    0 ≤ keep ≤ numel < 2³¹.
    """
    flat = scores.flatten()
    wanted = as_count(keep, scores.device)
    powers = torch.tensor(
        [2.0 ** (max(exponent, 1) - 127) for exponent in range(_EXPONENTS - 1)] + [float("inf")],
        device=scores.device,
    )
    # The threshold t is the highest float that `keep` scores reach. At or above 0 its bits are the highest for which
    # they do; below 0 those of −t follow on the highest for which they do not.
    negative = _count(flat >= 0.0) < wanted
    sign = torch.where(negative, -1.0, 1.0)
    bits = torch.zeros_like(wanted)
    for bit in range(30, -1, -1):
        higher = bits + (1 << bit)
        reached = _count(flat >= sign * _float(higher, powers)) >= wanted
        bits = torch.where(reached ^ negative, higher, bits)
    threshold = sign * _float(bits + negative.to(torch.int32), powers)
    above, tied = flat > threshold, flat == threshold
    missing = wanted - _count(above)
    # The index of the last equal that is kept: the highest before which fewer than `missing` lie.
    place = torch.arange(flat.numel(), dtype=torch.int32, device=scores.device)
    last = torch.zeros_like(wanted)
    for bit in range(flat.numel().bit_length() - 1, -1, -1):
        further = last + (1 << bit)
        last = torch.where(_count(tied & (place < further)) < missing, further, last)
    return (above | (tied & (place <= last) & (missing > 0))).view(scores.shape)


def as_count(keep: int | Tensor, device: torch.device) -> Tensor:
    """int32 [1] on the device. One dimension, since XLA takes a lone 0 or 1 for a constant of the program."""
    if isinstance(keep, Tensor):
        return keep.to(device, torch.int32).reshape(1)
    return torch.tensor([keep], dtype=torch.int32, device=device)


def _float(bits: Tensor, powers: Tensor) -> Tensor:
    """The non-negative float [] of these bits, int32 []; exact: a fraction of 24 bits times a power of two."""
    exponent = bits >> _FRACTION
    fraction = (bits & ((1 << _FRACTION) - 1)).to(torch.float32) * 2.0**-_FRACTION
    return (fraction + (exponent > 0).to(torch.float32)) * torch.take(powers, exponent.to(torch.int64))


def _count(flags: Tensor) -> Tensor:
    return flags.sum(dtype=torch.int32)
