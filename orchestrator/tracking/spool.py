"""The spool: where a worker's metric points wait for the ledger.

The trainer's thread only appends to a list. Batches leave it whole steps at a time, so that whoever reads the ledger
up to a step has all of that step. Points are inserted in the transaction that prolongs the lease, notes a checkpoint
or completes the segment; what was not inserted before a crash lies after the last noted checkpoint and is measured
anew. So no point is lost, with no file to write, keep and replay; a batch that could not be inserted waits here.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable


class Spool:
    """A `trainer.metrics.MetricSink` that keeps (step, name, value) until `taken` says they are stored."""

    def __init__(self, machine: Callable[[], dict[str, float]] = dict) -> None:
        """`machine`: what there is to say of the machine at a step (`orchestrator.tracking.machine`)."""
        self._machine = machine
        self._points: list[tuple[int, str, float]] = []
        self.step = 0
        """The newest step that a point came from."""
        self.loss: float | None = None
        """The newest training loss, nats per target."""

    def point(self, step: int, name: str, value: float) -> None:
        """Keep one point. Microseconds: no file, no network, no lock (appending to a list is atomic)."""
        self._points.append((step, name, value))
        self.step = step
        if name == "loss":
            self.loss = value
            # On this thread, so that steps never fall in the list.
            self._points += [(step, asked, found) for asked, found in self._machine().items()]

    def batch(self, *, up_to: int | None = None) -> list[tuple[int, str, float]]:
        """The points to store next: those of finished steps, or of steps up to `up_to`. They stay until `taken`."""
        there = self._points[:]  # steps never fall, so a batch is a beginning of this list
        if up_to is None:
            up_to = there[-1][0] - 1 if there else 0
        return there[: bisect.bisect_right(there, up_to, key=lambda point: point[0])]

    def taken(self, batch: list[tuple[int, str, float]]) -> None:
        """Forget the batch that was stored: the one that `batch` returned last, and no other came between."""
        del self._points[: len(batch)]
