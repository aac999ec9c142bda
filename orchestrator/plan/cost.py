"""What a plan costs on each pool: device-hours, dollars and when it would end.

The time of a step is measured where the ledger has segments of that pool, and otherwise reckoned with a stated model:

    seconds = overhead + FLOPs of the step / (peak of the chip × utilisation)

with the accelerator's peak at the sweep's precision and the utilisation of `orchestrator.pools.accelerators`. Between
and beyond measured sizes the model is kept and corrected by the ratio to what was measured nearest. Evaluation,
checkpoints and waiting for nodes are not in it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np

from ledger.throughput import StepTime
from orchestrator.plan.forest import PlannedSegment
from orchestrator.plan.plan import Plan
from orchestrator.pools import ACCELERATORS, Pool, Pools
from orchestrator.pools.accelerators import Kind
from orchestrator.pools.pool import DEVICES

_CENTURY = 100 * 365.25 * 86400

#: The device that a kind of node is there for.
_USUAL: dict[Kind, str] = {"cpu": "cpu", "gpu": "cuda", "tpu": "xla"}


@dataclass(frozen=True, kw_only=True)
class PoolCost:
    """What is left of a plan, on one pool. `chip_hours` are core-hours on a CPU pool."""

    pool: Pool
    device: str
    chosen: bool
    """Whether the spec names this pool: what it has done already is not counted then."""
    slots: int
    """Runs that train at a time."""
    chip_hours: float
    seconds: float
    """From the first step to the last, were all nodes there at once."""
    basis: Literal["measured", "estimated"]
    segments_measured: int

    def document(self, now: datetime) -> dict[str, Any]:
        """JSON-ready form."""
        pool, price = self.pool, self.pool.cost
        if pool.everywhere and pool.price is None:
            price = None  # the machine is there already
        return {
            "name": pool.name,
            "accelerator": pool.accelerator,
            "topology": pool.topology or None,
            "device": self.device,
            "chosen": self.chosen,
            "assumed": pool.assumed,
            "spot": pool.spot,
            "runs_at_a_time": self.slots,
            "device_hours": self.chip_hours,
            "cost": price
            and {
                "low": self.chip_hours * price.low,
                "high": self.chip_hours * price.high,
                "currency": "USD",
                "source": price.source,
            },
            "seconds": self.seconds,
            "ends_at": self._ends_at(now),
            "basis": self.basis,
            "segments_measured": self.segments_measured,
        }

    def _ends_at(self, now: datetime) -> str | None:
        """None: not in this century."""
        if self.seconds > _CENTURY:
            return None
        return (now + timedelta(seconds=self.seconds)).isoformat(timespec="seconds")


class StepModel:
    """Seconds of a step on one pool, at one precision."""

    def __init__(self, pool: Pool, device: str, precision: str, measured: Iterable[StepTime]) -> None:
        chip = pool.spec if device in ("cuda", "xla") else ACCELERATORS["cpu"]
        self._overhead = chip.step_overhead
        share = pool.utilisation if pool.utilisation is not None else chip.utilisation
        self._rate = share * chip.peak.get(precision, chip.peak["float32"])
        same = [
            time
            for time in measured
            if (time.pool, time.device, time.precision) == (pool.name, device, precision)
        ]
        same.sort(key=lambda time: time.flops)
        self.segments = sum(time.segments for time in same)
        self._sizes = np.log([max(time.flops, 1.0) for time in same])
        self._ratios = np.log([time.seconds / self._estimate(time.flops) for time in same])

    def seconds(self, flops: float) -> float:
        """Time of a step of so many FLOPs."""
        estimate = self._estimate(flops)
        if not self._sizes.size:
            return estimate
        return estimate * math.exp(float(np.interp(math.log(max(flops, 1.0)), self._sizes, self._ratios)))

    def _estimate(self, flops: float) -> float:
        return self._overhead + flops / self._rate


def costs(plan: Plan, pools: Pools, measured: Sequence[StepTime] = ()) -> list[PoolCost]:
    """The cost of a plan on every pool; the one that the spec names first."""
    execution = plan.spec.execution
    todo: dict[bool, Todo] = {}
    found = []
    for pool in sorted(pools, key=lambda pool: pool.name != execution.pool):
        chosen = pool.name == execution.pool
        # Keys hold the kind of device: on another one everything is to be trained anew.
        device = execution.device if chosen else _USUAL[pool.kind]
        if not chosen and pool.everywhere and execution.device in DEVICES[pool.kind]:
            device = execution.device
        anew = device != execution.device
        if anew not in todo:
            todo[anew] = Todo([each for each in plan.segments if anew or each.key not in plan.reused])
        found.append(_cost(todo[anew], pool, device, chosen, execution.max_concurrent, measured))
    return found


class Todo:
    """Segments to be trained, and in which order they can be: what is the same for every pool."""

    def __init__(self, segments: Sequence[PlannedSegment]) -> None:
        """Parents stand before their children; a parent that is not among them is done."""
        self.segments = segments
        index = {segment.key: place for place, segment in enumerate(segments)}
        by_urgency = sorted(range(len(segments)), key=lambda place: -segments[place].priority)
        self._by_urgency = by_urgency
        self._children: dict[int, list[int]] = {}
        self._first: list[int] = []
        rank = {place: rank for rank, place in enumerate(by_urgency)}
        for place, segment in enumerate(segments):
            parent = index.get(segment.parent) if segment.parent is not None else None
            (self._first if parent is None else self._children.setdefault(parent, [])).append(rank[place])

    def makespan(self, durations: Sequence[float], slots: int) -> float:
        """Seconds until all are trained by so many workers, who always take the most urgent that is ready."""
        ready = sorted(self._first)  # ranks by urgency: a sorted list is a heap
        running: list[tuple[float, int]] = []
        now = 0.0
        while ready or running:
            while ready and len(running) < slots:
                place = self._by_urgency[heapq.heappop(ready)]
                heapq.heappush(running, (now + durations[place], place))
            now, place = heapq.heappop(running)
            for child in self._children.get(place, ()):
                heapq.heappush(ready, child)
        return now


def _cost(
    todo: Todo,
    pool: Pool,
    device: str,
    chosen: bool,
    limit: int | None,
    measured: Sequence[StepTime],
) -> PoolCost:
    slots = pool.runs_per_node * pool.max_nodes
    if device == "cpu" and pool.kind != "cpu":
        slots = int(pool.cores) * pool.max_nodes
    slots = max(1, min(slots, limit or slots))
    models: dict[str, StepModel] = {}
    step_seconds: dict[tuple[str, float], float] = {}
    durations = []
    for segment in todo.segments:
        precision = segment.program.numerics.precision
        steps = segment.end - segment.start
        case = (precision, segment.flops / steps)
        if case not in step_seconds:
            model = models.setdefault(precision, StepModel(pool, device, precision, measured))
            step_seconds[case] = model.seconds(case[1])
        durations.append(steps * step_seconds[case])
    counted = sum(model.segments for model in models.values())
    return PoolCost(
        pool=pool,
        device=device,
        chosen=chosen,
        slots=slots,
        chip_hours=sum(durations) * pool.chips_per_slot / 3600,
        seconds=todo.makespan(durations, slots),
        basis="measured" if models and all(model.segments for model in models.values()) else "estimated",
        segments_measured=counted,
    )
