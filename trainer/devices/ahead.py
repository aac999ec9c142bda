"""Batches made ahead of their use: one thread, a few batches in flight, whatever order they are asked for in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """`make(index)` for any index; the next `depth` of them are made in a thread meanwhile, below `until`.

    `make` must be a pure function of its index, so asking out of order costs time and changes nothing. What it raises
    is raised where that index is asked for.
    """

    def __init__(self, make: Callable[[int], Item], until: int, depth: int = 2) -> None:
        self._make = make
        self._until = until
        self._depth = depth
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._made: dict[int, Future[Item]] = {}

    def __call__(self, index: int) -> Item:
        found = self._made.pop(index, None) or self._thread.submit(self._make, index)
        wanted = range(index + 1, min(index + 1 + self._depth, self._until))
        for stale in set(self._made) - set(wanted):
            self._made.pop(stale).cancel()
        for coming in wanted:
            if coming not in self._made:
                self._made[coming] = self._thread.submit(self._make, coming)
        return found.result()
