"""What a plan costs on each pool: device-hours, dollars and when it would end.

The time of a step is measured where the ledger has segments of that pool, and otherwise reckoned with a stated model:

    seconds = overhead + FLOPs of the step / (devices of the run × peak of the chip × utilisation) + exchange

with the accelerator's peak at the sweep's precision and the utilisation of `orchestrator.pools.accelerators`. Where
several devices train a run, exchange is the time of an all-reduce of the gradient, 8 bytes a weight, over the link of
one device. Between
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
from trainer.program import Program
from trainer.shapes import shape_of

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
    devices: int
    """Devices of a run: what the spec says, or all of a slice."""
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
            "devices_per_run": self.devices,
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
    """Seconds of a step on so many devices of one pool, at one precision."""

    def __init__(
        self, pool: Pool, device: str, precision: str, measured: Iterable[StepTime], devices: int = 1
    ) -> None:
        chip = pool.spec if device in ("cuda", "xla") else ACCELERATORS["cpu"]
        self._devices, self._link = devices, chip.link
        self._overhead = chip.step_overhead
        share = pool.utilisation if pool.utilisation is not None else chip.utilisation
        self._rate = devices * share * chip.peak.get(precision, chip.peak["float32"])
        same = [
            time
            for time in measured
            if (time.pool, time.device, time.devices, time.precision)
            == (pool.name, device, devices, precision)
        ]
        same.sort(key=lambda time: time.flops)
        self.segments = sum(time.segments for time in same)
        self._sizes = np.log([max(time.flops, 1.0) for time in same])
        self._ratios = np.log([time.seconds / self._estimate(time.flops, 0) for time in same])

    def seconds(self, flops: float, weights: int = 0) -> float:
        """Time of a step of so many FLOPs of a model of so many weights."""
        if not self._sizes.size:
            return self._estimate(flops, weights)
        ratio = math.exp(float(np.interp(math.log(max(flops, 1.0)), self._sizes, self._ratios)))
        return self._estimate(flops, 0) * ratio  # what was measured has the exchange in it

    def _estimate(self, flops: float, weights: int) -> float:
        exchange = 8.0 * weights * (self._devices - 1) / self._devices / self._link
        return self._overhead + flops / self._rate + exchange


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
        devices = execution.devices_per_run
        if pool.lacks(device, devices) is not None:
            if device != "xla":
                continue
            devices = pool.slice_chips if pool.kind == "tpu" else 1
        # The bits of a run, and so its key, depend on the kind of device, and on the number of chips on xla.
        anew = device != execution.device or (device == "xla" and devices != execution.devices_per_run)
        if anew not in todo:
            todo[anew] = Todo([each for each in plan.segments if anew or each.key not in plan.reused])
        found.append(_cost(todo[anew], pool, device, devices, chosen, execution.max_concurrent, measured))
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
    devices: int,
    chosen: bool,
    limit: int | None,
    measured: Sequence[StepTime],
) -> PoolCost:
    slots = pool.runs(device, devices)
    slots = max(1, min(slots, limit or slots))
    models: dict[str, StepModel] = {}
    step_seconds: dict[tuple[str, float, int], float] = {}
    durations = []
    for segment in todo.segments:
        precision = segment.program.numerics.precision
        steps = segment.end - segment.start
        case = (precision, segment.flops / steps, _weights(segment.program) if devices > 1 else 0)
        if case not in step_seconds:
            model = models.setdefault(precision, StepModel(pool, device, precision, measured, devices))
            step_seconds[case] = model.seconds(case[1], case[2])
        durations.append(steps * step_seconds[case])
    counted = sum(model.segments for model in models.values())
    return PoolCost(
        pool=pool,
        device=device,
        chosen=chosen,
        devices=devices,
        slots=slots,
        chip_hours=sum(durations) * pool.chips_per_slot(devices) / 3600,
        seconds=todo.makespan(durations, slots),
        basis="measured" if models and all(model.segments for model in models.values()) else "estimated",
        segments_measured=counted,
    )


def _weights(program: Program) -> int:
    return shape_of(program.family, program.shape).total
