"""How many segments a worker takes at once: as many as pay, and never what another worker could begin with now."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.plan.speeds import SpeedBook, Speeds
from trainer.data.prepared import open_prepared
from trainer.packing import (
    SIZES,
    best_size,
    can_be_packed,
    likeness,
    modelled,
    sizes_up_to,
    worth_packing,
)
from trainer.program import Program

#: Measuring takes about four steps of each member; it is done where at least so many times as many are to be trained.
_WORTH_MEASURING = 10

log = logging.getLogger(__name__)


def most_wanted(program: Program, pack: str | int) -> int:
    """The members that the spec's `execution.pack` allows a pack around this program at most; 1: it is not packed."""
    if pack == 1 or not can_be_packed(program):
        return 1
    if pack == "auto":
        return SIZES[-1] if worth_packing(program) else 1
    return int(pack)


class PackSizes:
    """Chooses the size of packs on this worker's device, from speeds that are measured once for each shape."""

    def __init__(self, home: Path, workers: int) -> None:
        """workers: that train beside this one, itself counted: they share the machine's memory, and what is ready."""
        self._book = SpeedBook(home)
        self._workers = workers

    def choose(
        self, program: Program, data: Callable[[], Path], *, ready: int, siblings: int, steps: int
    ) -> int:
        """The size of the pack around a segment in hand.

        ready: other segments that could be handed out now, of which `siblings` would fit in; steps: to be trained by
        each. data: where its prepared data are, should something have to be measured.
        """
        most = 1 + min(siblings, ready - (self._workers - 1))
        if most < 2:
            return 1
        from trainer.pack_speed import free_memory

        speeds = self._speeds(program, data, most, steps)
        from trainer.devices import device_for  # torch: workers have it, the controller does not

        device = device_for(program.numerics.device_type)
        return best_size(speeds, most, memory=free_memory(device) // self._workers)

    def _speeds(self, program: Program, data: Callable[[], Path], most: int, steps: int) -> Speeds:
        from trainer.devices import device_for  # torch: workers have it, the controller does not
        from trainer.pack_speed import device_name, measure

        device, kind = device_for(program.numerics.device_type), likeness(program)
        processor, sizes = device_name(device), list(sizes_up_to(most))
        known = self._book.find(processor, kind)
        if known and max(known) >= max(sizes):
            return known
        if steps * most < _WORTH_MEASURING * 4 * sum(sizes):
            return known or modelled(program)
        found = measure(program, open_prepared(data()), device, sizes)
        log.info("packs of %s on %s: %s", kind[:12], processor, found)
        self._book.record(processor, kind, found)
        return {speed.members: speed for speed in found}
