"""The packing of a plan: which segments would be trained as one, and how much faster that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.plan.forest import PlannedSegment
from orchestrator.plan.speeds import SpeedBook
from trainer.packing import best_size, can_be_packed, gain, likeness, modelled, worth_packing


@dataclass(frozen=True)
class PlannedPack:
    """Segments that are trained as one. gain: how many times as fast as one after the other on the same device."""

    keys: tuple[str, ...]
    gain: float
    measured: bool
    """Whether the gain was measured, on this kind of program; else it is modelled."""


@dataclass(frozen=True)
class Packing:
    """All packs of a plan. gain: of the whole plan, weighted by FLOPs; 1.0: nothing is packed."""

    packs: tuple[PlannedPack, ...]
    gain: float

    @property
    def segments(self) -> int:
        """Segments that are trained in a pack."""
        return sum(len(pack.keys) for pack in self.packs)

    @property
    def measured(self) -> bool:
        """Whether every pack's gain was measured."""
        return all(pack.measured for pack in self.packs)


def packing(segments: Sequence[PlannedSegment], pack: str | int, book: SpeedBook | None) -> Packing:
    """How `segments` (those left to do) would be packed under the spec's `execution.pack`.

    Siblings cover the same steps, in programs that `trainer.packing.ALIKE` calls alike. A controller packs what is
    ready at the same time, and leaves work for its other workers: it may pack less at the end of a sweep. book: of
    measured speeds; where it has none, the model of `trainer.packing.modelled`.
    """
    groups: dict[tuple[str, int, int], list[PlannedSegment]] = {}
    if pack != 1:
        for segment in segments:
            if worth_packing(segment.program) or (pack != "auto" and can_be_packed(segment.program)):
                group = (likeness(segment.program), segment.start, segment.end)
                groups.setdefault(group, []).append(segment)
    packs: list[PlannedPack] = []
    saved = 0.0
    for (kind, _, _), members in groups.items():
        most = len(members) if pack == "auto" else min(len(members), int(pack))
        measured = book.anywhere(kind) if book is not None and most > 1 else {}
        speeds = measured or modelled(members[0].program)
        size = best_size(speeds, most) if pack == "auto" else most
        for first in range(0, len(members), size) if size > 1 else ():
            part = members[first : first + size]
            if len(part) > 1:
                factor = gain(speeds, len(part))
                packs.append(PlannedPack(tuple(each.key for each in part), factor, bool(measured)))
                saved += sum(each.flops for each in part) * (1 - 1 / factor)
    total = sum(segment.flops for segment in segments)
    return Packing(tuple(packs), total / (total - saved) if saved else 1.0)
