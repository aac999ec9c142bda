"""Which windows of an array make up batch i: shuffled epochs without a table, in O(1) memory.

A window's place in epoch e is a keyed permutation of [0, n): a four-round Feistel network over the smallest even
number of bits that covers n, walked until it falls inside (Black and Rogaway 2002, cycle walking).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.uint64]

_MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: SplitMix64's step
_ROUND_CONSTANTS = [np.uint64(_MIX * number % 2**64) for number in range(1, 5)]


def windows_at(seed: int, stream: int, first: int, count: int, windows: int) -> Indices:
    """Window numbers of positions first … first + count − 1 of the endless shuffled sequence. [count]

    Each epoch of `windows` positions is another permutation of all windows. `stream` keeps apart the sequences that
    one seed is used for.
    """
    position = np.arange(first, first + count, dtype=np.uint64)
    epoch, place = position // np.uint64(windows), position % np.uint64(windows)
    return _walked(place, _mix(_start(seed, stream) ^ epoch), windows)


def permuted(places: Indices, seed: int, stream: int, windows: int) -> Indices:
    """The image of each place below `windows` under one permutation, keyed by seed and stream."""
    return _walked(places, np.full(len(places), _mix(_start(seed, stream)), np.uint64), windows)


def _start(seed: int, stream: int) -> Indices:
    return _mix(np.full(1, (seed + _MIX * (stream + 1)) % 2**64, np.uint64))


def _walked(place: Indices, key: Indices, windows: int) -> Indices:
    half = np.uint64(max(1, ((windows - 1).bit_length() + 1) // 2))
    value = _feistel(place, key, half)
    outside = value >= windows
    while outside.any():
        value[outside] = _feistel(value[outside], key[outside], half)
        outside = value >= windows
    return value


def _feistel(value: Indices, key: Indices, half: np.uint64) -> Indices:
    low_bits = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & low_bits
    for constant in _ROUND_CONSTANTS:
        left, right = right, left ^ (_mix(right ^ key ^ constant) & low_bits)
    return (left << half) | right


def _mix(value: Indices) -> Indices:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every bit of the input moves every bit of the output."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
