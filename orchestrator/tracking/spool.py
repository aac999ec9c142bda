"""The spool: where a worker's metric points wait for the ledger.

The trainer's thread only appends, to a list and to a file (`orchestrator.tracking.journal`). Batches leave it whole
steps at a time, so that whoever reads the ledger up to a step has all of that step. Points are inserted in the
transaction that prolongs the lease, notes a checkpoint or completes the segment; a batch that could not be inserted
waits here, and what a killed worker leaves on the disk is brought to the ledger by the next one.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable

from orchestrator.tracking.journal import Journal, Row


class Spool:
    """A `trainer.metrics.MetricSink` that keeps (step, name, value) until `taken` says they are stored."""

    def __init__(
        self, machine: Callable[[], dict[str, float]] = dict, journal: Journal | None = None
    ) -> None:
        """`machine`: what there is to say of the machine at a step (`orchestrator.tracking.machine`). `journal`: where
        the points are written down; None: in memory only."""
        self._machine = machine
        self._journal = journal
        self._lock = threading.Lock()
        self._points: list[Row] = []
        self.step = 0
        """The newest step that a point came from."""
        self.loss: float | None = None
        """The newest training loss, nats per target."""

    def point(self, step: int, name: str, value: float) -> None:
        """Keep one point. Microseconds: no network, and no waiting for the disk."""
        self._keep(step, name, value)
        self.step = step
        if name == "loss":
            self.loss = value
            # On this thread, so that steps never fall in the list.
            for asked, found in self._machine().items():
                self._keep(step, asked, found)

    def _keep(self, step: int, name: str, value: float) -> None:
        with self._lock:
            self._points.append((step, name, value))
            if self._journal is not None:
                self._journal.append(step, name, value)

    def batch(self, *, up_to: int | None = None) -> list[Row]:
        """The points to store next: those of finished steps, or of steps up to `up_to`. They stay until `taken`."""
        there = self._points[:]  # steps never fall, so a batch is a beginning of this list
        if up_to is None:
            up_to = there[-1][0] - 1 if there else 0
        return there[: bisect.bisect_right(there, up_to, key=lambda point: point[0])]

    def taken(self, batch: list[Row]) -> None:
        """Forget the batch that was stored: the one that `batch` returned last, and no other came between."""
        with self._lock:
            del self._points[: len(batch)]
            if self._journal is not None:
                self._journal.keep(self._points)

    def close(self, *, over: bool) -> None:
        """Nothing comes any more. `over`: all is stored, or not wanted; else the journal waits for `replay`."""
        with self._lock:
            if self._journal is not None:
                self._journal.close(remove=over)
