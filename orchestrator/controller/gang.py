"""The processes that train each segment of a worker together: its own, rank 0, and an actor of Ray in each other
bundle of its placement group, which Ray gives as a whole or not at all.

Rank 0 holds the lease, writes the checkpoints and speaks with the ledger; the others are told what to train and give
back what they failed with. To pause or stop is rank 0's to hear, and that its own machine goes is each one's: all ranks
ask each other before every step. Where one of them ends before its time, the gang is over: rank 0 gives up, and Ray
takes all of its processes away. If one was killed, the segment is free for another gang, which goes on from the newest
checkpoint; if one raised, the attempt has failed with what it raised.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ledger.models import AttemptEnd
from orchestrator import leaving
from orchestrator.controller.failures import FailedElsewhere, kind_of, kind_of_death, reason_of
from orchestrator.controller.orders import Assignment, Taken
from orchestrator.controller.process import set_up
from orchestrator.controller.worker import TeamOver
from trainer.errors import Diverged, RankGone, Stopped
from trainer.metrics import NoSink
from trainer.ranks import Ranks, device_of, joined

if TYPE_CHECKING:
    from trainer.course import Order
    from trainer.segment import Ending

#: Seconds for the others to end, and for Ray to tell of a death, once one of them has ended.
GRACE = 20.0

#: Seconds between two looks at rank 0's own thread.
_POLL = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """How a process of the gang failed; kind `preempted`: it is gone, or another one was gone before."""

    kind: AttemptEnd
    reason: str


@dataclass(frozen=True)
class Seat:
    """Where a process is: its node of Ray, and the GPUs that Ray gave it there."""

    node: str
    gpus: tuple[str, ...]

    @staticmethod
    def here() -> Seat:
        """This process's."""
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return Seat(context.get_node_id(), tuple(str(gpu) for gpu in gpus))


def environments(seats: Sequence[Seat], meeting: dict[str, str]) -> list[dict[str, str]]:
    """What each process, by rank, has in its environment before it joins the others.

    Those of one node see each other's GPUs, as NCCL needs to copy from one to the other, and LOCAL_RANK says which is
    whose (`trainer.ranks.device_of`).
    """
    made = []
    for rank, seat in enumerate(seats):
        there = [other for other in seats if other.node == seat.node]
        local = sum(other.node == seat.node for other in seats[:rank])
        gpus = [gpu for other in there for gpu in other.gpus]
        made.append(
            {
                **meeting,
                "RANK": str(rank),
                "WORLD_SIZE": str(len(seats)),
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(len(there)),
                **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
            }
        )
    return made


class Member:
    """A process of the gang that is not rank 0: an actor of Ray."""

    def __init__(self, assignment: Assignment) -> None:
        set_up(assignment)
        self._home = assignment.home
        self._group = _Group()

    def seat(self) -> Seat:
        """Where it is."""
        return Seat.here()

    def join(self, environment: dict[str, str]) -> None:
        """Meet the others."""
        self._group.join(environment)

    def train(self, taken: Taken) -> Failure | None:
        """Train a segment with them; None: it ended as they all saw it end."""
        leaving.wait_for_end(self._home)
        going = partial(leaving.noticed, self._home)
        with leaving.busy(self._home):
            ending = self._group.train(taken, lambda: taken.order(NoSink(), should_stop=going))
        if not unwell(ending):
            return None
        assert isinstance(ending, Exception)
        return _failure(ending)


class _Group:
    """This process among those that train together."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._ranks: Ranks | None = None

    def join(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._ranks = self._open.enter_context(joined())

    def train(self, taken: Taken, order: Callable[[], Order]) -> Ending:
        """The segment's ending; where that is a failure, the group is left, so that nobody waits for this one."""
        from trainer.segment import train_pack

        assert self._ranks is not None
        try:
            device = device_of(taken.program.numerics.device_type)
            [(_, ending)] = train_pack([order()], device=device, ranks=self._ranks)
        except Exception as error:
            ending = error
        if unwell(ending):
            log.error("segment %s failed in this process", taken.claim.segment_key[:12], exc_info=ending)  # type: ignore[arg-type]
            self.leave()
        return ending

    def leave(self) -> None:
        self._open.close()


class Gang:
    """Rank 0's side, a `worker.Team`. Made in a process that has the first bundle of a placement group; returns when
    all have met. Raises TeamOver where they do not."""

    def __init__(self, group: PlacementGroup, assignment: Assignment) -> None:
        from trainer.launch import meeting_place

        self._group = _Group()
        self._open = ExitStack()
        actor = ray.remote(Member)
        self._others = [
            actor.options(**_resources(group, index)).remote(assignment)
            for index in range(1, group.bundle_count)
        ]
        meeting = self._open.enter_context(meeting_place(ray.util.get_node_ip_address()))
        seats = [Seat.here(), *ray.get([other.seat.remote() for other in self._others])]
        own, *others = environments(seats, meeting)
        joining = [
            other.join.remote(environment) for other, environment in zip(self._others, others, strict=True)
        ]
        ended, failures = _beside(lambda: self._group.join(own), joining)
        if not ended or failures:
            raise TeamOver(f"the processes of a gang did not meet: {_told(failures)}")

    def train(self, members: Sequence[Taken], orders: Sequence[Order]) -> Iterator[tuple[int, Ending]]:
        """As `worker.Team`: one segment, by all of them."""
        [taken], [order] = members, orders
        found: list[Ending] = []
        begun = [other.train.remote(taken) for other in self._others]
        ended, failures = _beside(lambda: found.append(self._group.train(taken, lambda: order)), begun)
        ending = found[0] if found else RankGone("this process waits for another that failed")
        if not unwell(ending):
            yield 0, ending
        elif (reason := cause(ending, failures)) is not None:
            yield 0, reason
        if failures or unwell(ending):
            raise TeamOver(f"a gang is over: {_told(failures) or ending}", stuck=not ended)

    def close(self) -> None:
        """Leave the others, and let them go."""
        self._group.leave()
        self._open.close()
        for other in self._others:
            ray.kill(other)


def unwell(ending: Ending) -> bool:
    """Whether a process ended as the others cannot have seen it."""
    return isinstance(ending, Exception) and not isinstance(ending, Stopped | Diverged)


def _resources(group: PlacementGroup, index: int) -> dict[str, Any]:
    bundle = dict(group.bundle_specs[index])
    return {
        "num_cpus": bundle.pop("CPU", 0),
        "num_gpus": bundle.pop("GPU", 0),
        "resources": bundle,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
    }


def _beside(own: Callable[[], None], begun: Sequence[ray.ObjectRef]) -> tuple[bool, list[Failure]]:
    """Do `own` in a thread while the others do what they have begun: whether it returned, and what they failed with.

    Once one side has ended, the other has GRACE seconds: what a GPU waits for, cannot be interrupted.
    """
    thread = threading.Thread(target=own, name="rank 0", daemon=True)
    thread.start()
    waiting, failures = list(begun), []
    deadline = float("inf")
    while (thread.is_alive() or waiting) and time.monotonic() < deadline:
        done: list[ray.ObjectRef] = []
        if waiting:
            done, waiting = ray.wait(waiting, timeout=_POLL)
        else:
            thread.join(_POLL)
        failures += [failure for each in done if (failure := _heard(each)) is not None]
        if failures or not thread.is_alive():
            deadline = min(deadline, time.monotonic() + GRACE)
    failures += [Failure(AttemptEnd.preempted, "a process did not end with the others")] * len(waiting)
    return not thread.is_alive(), failures


def _heard(answer: ray.ObjectRef) -> Failure | None:
    try:
        found: Failure | None = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        return _failure(error)
    except ray.exceptions.RayError as error:
        return Failure(kind_of_death(str(error)), str(error))
    return found


def _failure(error: Exception) -> Failure:
    return Failure(
        AttemptEnd.preempted if isinstance(error, RankGone) else kind_of(error), reason_of(error, [])
    )


def cause(own: Ending, failures: Sequence[Failure]) -> Exception | None:
    """What went wrong first: None where a process was killed, so that nothing went wrong."""
    if isinstance(own, Exception) and not isinstance(own, RankGone):
        return own
    raised = next((failure for failure in failures if failure.kind is not AttemptEnd.preempted), None)
    return None if raised is None else FailedElsewhere(raised.kind, raised.reason)


def _told(failures: Sequence[Failure]) -> str:
    return "; ".join(failure.reason.partition("\n")[0] for failure in failures)
