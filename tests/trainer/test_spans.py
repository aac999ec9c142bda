"""Span corruption and the order of windows."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.order import windows_at
from trainer.data.spans import _segments, corrupt, span_lengths
from trainer.errors import DataError

SENTINELS = np.arange(383, 258, -1)


def test_lengths_are_the_papers() -> None:
    assert span_lengths(512, 0.15, 3.0) == (568, 85, 28, 512, 114)
    assert span_lengths(48, 0.15, 3.0) == (52, 8, 3, 48, 12), "8/3 spans are 3, as T5 rounds"


@pytest.mark.parametrize("length", [8, 24, 96, 100, 333, 1024])
def test_inputs_fill_the_sequence_exactly(length: int) -> None:
    assert span_lengths(length, 0.15, 3.0).inputs == length


def test_a_sequence_too_short_is_refused() -> None:
    with pytest.raises(DataError, match="too short"):
        span_lengths(2, 0.15, 3.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 200), st.floats(0.05, 0.6), st.floats(1.0, 6.0), st.integers(0, 2**63))
def test_inputs_and_targets_together_hold_every_token_in_order(
    length: int, density: float, mean: float, seed: int
) -> None:
    lengths = span_lengths(length, density, mean)
    if lengths.spans > len(SENTINELS):
        return
    tokens = np.arange(3 * lengths.raw).reshape(3, lengths.raw) % 256 + 3
    inputs, targets = corrupt(tokens, lengths, SENTINELS, 1, np.random.Philox(key=[seed, 0]))
    assert inputs.shape == (3, lengths.inputs)
    assert targets.shape == (3, lengths.targets)
    for row in range(3):
        assert np.array_equal(_undo(inputs[row], targets[row]), tokens[row])
        marks = [value for value in inputs[row] if value > 258]
        assert marks == list(SENTINELS[: lengths.spans])
        assert inputs[row, 0] < 259, "a row begins with a kept token"


def _undo(inputs: Any, targets: Any) -> Any:
    spans: dict[int, list[int]] = {}
    for value in targets[:-1]:
        if value > 258:
            spans[int(value)] = current = []
        else:
            current.append(int(value))
    restored: list[int] = []
    for value in inputs[:-1]:
        restored.extend(spans[int(value)] if value > 258 else [int(value)])
    return np.array(restored)


def test_every_way_to_cut_is_equally_likely() -> None:
    lengths = _segments(np.random.Philox(key=[1, 2]), 21_000, 8, 3)
    seen = Counter(map(tuple, lengths.tolist()))
    ways = [(a, b - a, 8 - b) for a, b in combinations(range(1, 8), 2)]
    assert set(seen) == set(ways)
    expected = 21_000 / len(ways)
    chi_squared = sum((seen[way] - expected) ** 2 / expected for way in ways)
    assert chi_squared < 45.3  # 0.1 % point at 20 degrees of freedom


@given(st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_every_window_once(windows: int, seed: int, stream: int) -> None:
    for epoch in (0, 1, 5):
        visited = windows_at(seed, stream, epoch * windows, windows, windows)
        assert sorted(visited.tolist()) == list(range(windows))


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_place_does_not_depend_on_where_one_starts_to_count(first: int, count: int) -> None:
    whole = windows_at(3, 0, 0, first + count, 977)
    assert np.array_equal(windows_at(3, 0, first, count, 977), whole[first:])


def test_epochs_streams_and_seeds_differ() -> None:
    orders = [
        windows_at(seed, stream, first, 500, 500).tolist()
        for seed, stream, first in [(0, 0, 0), (0, 0, 500), (0, 1, 0), (1, 0, 0)]
    ]
    assert len({tuple(order) for order in orders}) == 4
