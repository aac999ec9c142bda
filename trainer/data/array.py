"""A long array that lies in several memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ShardedArray:
    """One array over shards, in their order; nothing is read before it is asked for.

    paths, lengths: the files, and the items of `dtype` in each.
    """

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._paths, self._dtype = list(paths), dtype
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """A copy of the stretches of `length` items that begin at `starts`. [rows, length]"""
        rows = np.empty((len(starts), length), self._dtype)
        first = np.searchsorted(self._starts, starts, side="right") - 1
        for row, start, shard in zip(rows, starts.tolist(), first.tolist(), strict=True):
            filled = 0
            while filled < length:
                begin = start + filled - int(self._starts[shard])
                piece = self._shards[shard][begin : begin + length - filled]
                row[filled : filled + len(piece)] = piece
                filled += len(piece)
                shard += 1
        return rows

    def whole(self) -> NDArray[Any]:
        """Everything, as one array: mapped where one file has it all, else copied."""
        return self._shards[0] if len(self._shards) == 1 else np.concatenate(self._shards)

    @cached_property
    def _shards(self) -> list[NDArray[Any]]:
        lengths = np.diff(self._starts).tolist()
        # numpy maps no empty file. As plain arrays: slices of its own class of mapped ones cost three times as much.
        return [
            np.asarray(np.memmap(path, dtype=self._dtype, mode="r")) if length else np.empty(0, self._dtype)
            for path, length in zip(self._paths, lengths, strict=True)
        ]
