"""Losses on their way from the device: read in one go, since each reading waits for the device."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Losses:
    """The losses of the steps since the last reading. check: is told every (step, loss), and raises on a lost run."""

    def __init__(self, check: Callable[[int, float], None]) -> None:
        self._check = check
        self._pending: list[tuple[int, Tensor]] = []
        self._last = float("nan")

    def note(self, step: int, loss: Tensor) -> None:
        """The loss [] of the step that made it `step` steps; it may not be computed yet."""
        self._pending.append((step, loss))

    def __len__(self) -> int:
        return len(self._pending)

    def read(self) -> float:
        """The last loss noted. All are checked in their order, so that a lost run is reported at the step it was."""
        for step, loss in self._pending:
            self._last = float(loss)
            self._check(step, self._last)
        self._pending.clear()
        return self._last
