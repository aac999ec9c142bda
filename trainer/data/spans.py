"""Span corruption as in T5 (Raffel et al. 2020, section 3.1.4), for a whole batch at once.

Spans are drawn as T5's `random_spans_noise_mask` does: the noise tokens and the kept tokens are each cut into the
same number of segments, uniformly over all ways to cut, and laid in turn, kept segment first. Every row then has the
same lengths, so batches have one static shape and no padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

Ids = NDArray[np.int64]


class SpanLengths(NamedTuple):
    """Tokens read from the array, of them noise, in so many spans; and the lengths that come of it."""

    raw: int
    noise: int
    spans: int
    inputs: int
    targets: int


def span_lengths(sequence_length: int, noise_density: float, mean_span_length: float) -> SpanLengths:
    """The longest raw stretch whose corrupted inputs fit into `sequence_length`, end token included.

    512 at 15 % and 3 gives 568 raw, 512 inputs, 114 targets, as in the paper. Raises DataError where none fits.
    """
    best = None
    for raw in range(2, 4 * sequence_length + 2):
        noise = min(max(round(raw * noise_density), 1), raw - 1)
        spans = min(max(round(noise / mean_span_length), 1), noise, raw - noise)
        lengths = SpanLengths(raw, noise, spans, raw - noise + spans + 1, noise + spans + 1)
        if lengths.inputs > sequence_length:
            break
        best = lengths
    if best is None:
        raise DataError(f"a sequence of {sequence_length} tokens is too short for span corruption")
    return best


def corrupt(
    tokens: Ids, lengths: SpanLengths, sentinels: Ids, eos: int, bits: np.random.Philox
) -> tuple[Ids, Ids]:
    """Inputs [rows, lengths.inputs] and targets [rows, lengths.targets] of raw tokens [rows, lengths.raw].

    `bits` supplies the randomness; raw generator output only, whose stream NumPy keeps stable for ever.
    """
    rows = len(tokens)
    kept = _segments(bits, rows, lengths.raw - lengths.noise, lengths.spans)
    noise = _segments(bits, rows, lengths.noise, lengths.spans)
    pieces = np.stack([kept, noise], axis=2).reshape(rows, 2 * lengths.spans)
    starts = np.zeros_like(pieces)
    np.cumsum(pieces[:, :-1], axis=1, out=starts[:, 1:])
    opens = np.zeros((rows, lengths.raw), np.int8)
    np.put_along_axis(opens, starts, 1, axis=1)
    is_noise = (np.cumsum(opens, axis=1, dtype=np.int16) & 1) == 0
    marks = sentinels[: lengths.spans]

    inputs = np.empty((rows, lengths.inputs), np.int64)
    with_marks = tokens.copy()
    np.put_along_axis(with_marks, starts[:, 1::2], marks[None, :], axis=1)
    take = ~is_noise
    np.put_along_axis(take, starts[:, 1::2], True, axis=1)
    inputs[:, :-1] = with_marks[take].reshape(rows, -1)
    inputs[:, -1] = eos

    targets = np.empty((rows, lengths.targets), np.int64)
    with_marks = tokens.copy()
    np.put_along_axis(with_marks, starts[:, 0::2], marks[None, :], axis=1)
    np.put_along_axis(is_noise, starts[:, 0::2], True, axis=1)
    targets[:, :-1] = with_marks[is_noise].reshape(rows, -1)
    targets[:, -1] = eos
    return inputs, targets


def _segments(bits: np.random.Philox, rows: int, items: int, segments: int) -> NDArray[Any]:
    """Lengths of `segments` non-empty segments of `items` items, uniform over all ways to cut. [rows, segments]"""
    keys = bits.random_raw(rows * (items - 1)).reshape(rows, items - 1)
    cuts = np.sort(np.argsort(keys, axis=1, kind="stable")[:, : segments - 1], axis=1) + 1
    edges = np.concatenate([np.zeros((rows, 1), np.int64), cuts, np.full((rows, 1), items)], axis=1)
    return np.diff(edges, axis=1)
