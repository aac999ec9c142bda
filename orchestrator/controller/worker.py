"""Carry out segments: claim, train with a lease that a thread prolongs, publish, complete.

Knows the ledger and the trainer, and nothing of Ray. The worker may be killed at any line: what it holds is taken up
again from the last checkpoint that the ledger knows. The ledger may be away for a while at any line: training goes on,
and what must be said is said when it is back.
"""

from __future__ import annotations

import collections
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, controllers, segments, sweeps
from ledger.attempts import Claim
from ledger.models import AttemptEnd, AttemptState
from ledger.sweeps import Place, Placed
from orchestrator import leaving
from orchestrator.controller.failures import kind_of, reason_of
from orchestrator.controller.lease import Lease
from orchestrator.controller.orders import Assignment, Taken
from orchestrator.controller.packs import PackSizes, most_wanted
from orchestrator.controller.patience import patiently
from orchestrator.controller.process import log_file
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.machine import Machine
from orchestrator.tracking.spool import Spool
from trainer.errors import Diverged, Stopped
from trainer.packing import ALIKE

if TYPE_CHECKING:
    from trainer.course import Order
    from trainer.segment import Ending

#: Ready segments that a worker hears of at once, and the seconds for which it trusts their order: to find the most
#: urgent of ten thousand costs more than a segment of a few steps does. Whether it can still be had, the claim checks.
CANDIDATES = 64
CANDIDATES_SECONDS = 1.0

#: Log lines kept for the reason of a failure.
LOG_LINES = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How the work on one segment ended."""

    segment_key: str
    attempt_id: int
    state: AttemptState
    steps: int
    """Optimiser steps done by this attempt."""
    seconds: float


class Team(Protocol):
    """The processes that train together what a worker takes up."""

    def train(self, members: Sequence[Taken], orders: Sequence[Order]) -> Iterator[tuple[int, Ending]]:
        """As `trainer.segment.train_pack`. Raises TeamOver when it can do no more; members that have not ended then
        are free for another."""
        ...


class TeamOver(Exception):
    """Processes that train together are no team any more: the worker is to be replaced with all of them.

    stuck: this process waits in a thread for one that is gone, and cannot be ended but at once.
    """

    def __init__(self, reason: str, *, stuck: bool = False) -> None:
        super().__init__(reason)
        self.stuck = stuck


class Alone:
    """No team: this process trains by itself."""

    def train(self, members: Sequence[Taken], orders: Sequence[Order]) -> Iterator[tuple[int, Ending]]:
        # torch and transformers take seconds to import: only where there is something to train.
        from trainer.segment import train_pack

        return train_pack(orders, device=members[0].program.numerics.device_type)


class Worker:
    """Takes segments one after the other, on behalf of a controller."""

    def __init__(
        self,
        engine: Engine,
        assignment: Assignment,
        name: str,
        place: Place,
        *,
        workers: int = 1,
        team: Team | None = None,
    ) -> None:
        """`name`: "host:process id/trial", as the ledger shall show it. `place`: whose segments it takes up, beside how
        many `workers`, itself counted. `team`: with whom it trains them; None: alone.
        """
        self._team = Alone() if team is None else team
        self._workers = workers
        self._engine = engine
        self._place = place
        self._assignment = assignment
        self._name = name
        self._candidates: collections.deque[str] = collections.deque()
        self._candidates_until = 0.0
        self._log_lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)

    def work(self, segment_key: str | None) -> list[Ended]:
        """Carry out that segment, or, where it is not to be had, the most urgent one, and in one pack with it whatever
        else it pays to train so. Empty: nothing is ready.
        """
        with leaving.busy(self._assignment.home), _tail(self._log_lines):
            claim = self._claim(segment_key)
            if claim is None:
                return []
            taken = Taken(claim, self._assignment.storage)
            return self._carry_out([taken, *self._beside(taken)])

    def _placed(self, session: Session) -> Placed | None:
        """The sweeps whose segments this worker takes up; None: there is none now."""
        served = controllers.served(session, self._assignment.sweep_ids)
        return sweeps.by_place(session, served).get(self._place)

    def _claim(self, segment_key: str | None) -> Claim | None:
        def first_of(session: Session, keys: Iterable[str]) -> Claim | None:
            for key in keys:
                if claim := attempts.claim(session, key, self._assignment.controller, self._name):
                    return claim
            return None

        def try_once() -> Claim | None:
            with Session(self._engine) as session, session.begin():
                if time.monotonic() > self._candidates_until:
                    self._candidates.clear()
                given = [] if segment_key is None else [segment_key]
                if claim := first_of(session, itertools.chain(given, _drain(self._candidates))):
                    return claim
                placed = self._placed(session)
                if placed is None:
                    return None
                found = segments.ready(session, sweep_ids=placed.sweep_ids, limit=CANDIDATES)
                self._candidates.extend(found)
                self._candidates_until = time.monotonic() + CANDIDATES_SECONDS
                return first_of(session, _drain(self._candidates))

        return patiently(try_once)

    def _beside(self, taken: Taken) -> list[Taken]:
        """Siblings of a segment in hand, claimed to be trained in one pack with it."""
        if taken.claim.alone:
            return []
        try:
            keys, most = self._siblings(taken)
        except Exception:
            # Trained alone, it says what is wrong and the attempt ends as what it is: here it would count as a
            # worker that was killed, and be tried again without end.
            log.exception("segment %s: no pack was measured", taken.claim.segment_key[:12])
            return []
        found: list[Taken] = []

        def claim_next(key: str) -> Claim | None:
            with Session(self._engine) as session, session.begin():
                return attempts.claim(session, key, self._assignment.controller, self._name)

        for key in keys:
            if len(found) + 1 < most and (claim := patiently(partial(claim_next, key))) is not None:
                found.append(Taken(claim, self._assignment.storage))
        return found

    def _siblings(self, taken: Taken) -> tuple[list[str], int]:
        """Keys of the segments that could be trained with this one, and the size of the pack that pays most."""
        claim, program = taken.claim, taken.program
        pack = claim.execution.get("pack", "auto")
        if (most := most_wanted(program, pack)) < 2:
            return [], 1

        def at_hand() -> tuple[list[str], int]:
            with Session(self._engine) as session:
                placed = self._placed(session)
                if placed is None:
                    return [], 0
                ids = placed.sweep_ids
                keys = segments.siblings(session, claim.segment_key, ALIKE, sweep_ids=ids, limit=most - 1)
                if pack != "auto" or not keys:
                    return keys, len(keys)
                return keys, len(segments.ready(session, sweep_ids=ids, limit=len(keys) + self._workers))

        keys, ready = patiently(at_hand)
        if pack != "auto" or not keys:
            return keys, most
        sizes = PackSizes(self._assignment.home, self._workers)
        # Measuring a shape takes longer than a lease lasts.
        with Lease(self._engine, claim, Spool()):
            return keys, sizes.choose(
                program,
                taken.data,
                ready=ready,
                siblings=len(keys),
                steps=claim.end_step - (claim.resume_step or claim.start_step),
            )

    def _spool(self, claim: Claim) -> Spool:
        journal = Journal(
            self._assignment.journals, claim.segment_key, claim.attempt_id, log_file(self._assignment)
        )
        return Spool(Machine().sample, journal)

    def _carry_out(self, members: Sequence[Taken]) -> list[Ended]:
        self._log_lines.clear()
        began = time.monotonic()
        home = self._assignment.home
        leases = [
            Lease(self._engine, taken.claim, self._spool(taken.claim), leaving=partial(leaving.noticed, home))
            for taken in members
        ]
        # Should this process be killed, they are what is left to say where it was.
        for taken in members:
            claim = taken.claim
            log.info(
                "attempt %d: segment %s, steps %d to %d, in a pack of %d",
                claim.attempt_id,
                claim.segment_key[:12],
                claim.resume_step or claim.start_step,
                claim.end_step,
                len(members),
            )
        ended: dict[int, Ended] = {}

        def end(place: int, ending: Ending) -> None:
            lease = leases[place]
            state, step = self._settle(lease, ending)
            begin = lease.claim.resume_step or lease.claim.start_step
            key, attempt = lease.claim.segment_key, lease.claim.attempt_id
            ended[place] = Ended(key, attempt, state, step - begin, time.monotonic() - began)
            log.info("attempt %d: %s at step %d", attempt, state, step)

        with ExitStack() as held:
            for lease in leases:
                held.enter_context(lease)
            try:
                orders = [
                    taken.order(
                        lease.spool, on_checkpoint=lease.note_checkpoint, should_stop=lease.should_stop
                    )
                    for taken, lease in zip(members, leases, strict=True)
                ]
                for place, ending in self._team.train(members, orders):
                    end(place, ending)
            except TeamOver:
                raise
            except Exception as error:
                # Of no single member: whoever has not ended, ends with it.
                for place in set(range(len(leases))) - set(ended):
                    end(place, error)
        return [ended[place] for place in range(len(leases))]

    def _settle(self, lease: Lease, ending: Ending) -> tuple[AttemptState, int]:
        """Tell the ledger how a segment ended: the state of its attempt, and the step it came to."""
        attempt = lease.claim.attempt_id
        if isinstance(ending, Stopped):
            if lease.fenced:
                return AttemptState.lost, ending.step
            return self._end(lease, AttemptState.stopped, str(ending)), ending.step
        if isinstance(ending, Diverged):
            return self._end(lease, AttemptState.diverged, str(ending)), ending.step
        if isinstance(ending, Exception):
            log.error("segment %s failed", lease.claim.segment_key[:12], exc_info=ending)
            reason = reason_of(ending, list(self._log_lines))
            step = lease.spool.step or lease.claim.resume_step or lease.claim.start_step
            return self._end(lease, AttemptState.failed, reason, kind_of(ending)), step
        result = ending
        state = lease.end(
            lambda session: attempts.complete(session, attempt, result.to_dict(), result.checkpoint),
            AttemptState.completed,
        )
        return state, result.step

    def _end(
        self, lease: Lease, state: AttemptState, reason: str, kind: AttemptEnd | None = None
    ) -> AttemptState:
        attempt = lease.claim.attempt_id

        def write(session: Session) -> None:
            if state is AttemptState.stopped:
                attempts.stop(session, attempt, reason)
            elif state is AttemptState.diverged:
                attempts.diverge(session, attempt, reason)
            else:
                attempts.fail(session, attempt, kind or AttemptEnd.code, reason)

        return lease.end(write, state)


def _drain(queue: collections.deque[str]) -> Iterator[str]:
    while queue:
        yield queue.popleft()


@contextmanager
def _tail(lines: collections.deque[str]) -> Iterator[None]:
    """Inside, what trainer and orchestrator log is kept there, too."""
    handler = _Tail(lines)
    loggers = [logging.getLogger(name) for name in ("trainer", "orchestrator")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class _Tail(logging.Handler):
    """Keeps the last lines that were logged."""

    def __init__(self, lines: collections.deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage()[:500])
