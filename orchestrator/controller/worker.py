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
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, controllers, segments, sweeps
from ledger.attempts import Claim
from ledger.models import AttemptEnd, AttemptState
from ledger.sweeps import Place, Placed
from orchestrator.controller.failures import kind_of, reason_of
from orchestrator.controller.lease import Lease
from orchestrator.controller.packs import PackSizes, most_wanted
from orchestrator.controller.patience import patiently
from orchestrator.tracking.journal import Journal, folder_of
from orchestrator.tracking.machine import Machine
from orchestrator.tracking.spool import Spool
from trainer.data import copies
from trainer.errors import Diverged, Stopped
from trainer.packing import ALIKE
from trainer.program import Program

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


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker needs beside the ledger's own record of a segment."""

    ledger_url: str
    storage: str
    """Root URL of checkpoints."""
    controller: str
    sweep_ids: tuple[int, ...] | None
    """For which sweeps the controller was started (see `controllers.served`); None: every active one."""
    logs: Path
    home: Path
    """Where the speeds of packs are kept, and the journals of metric points."""

    @property
    def journals(self) -> Path:
        """The folder of journals, on the worker's disk."""
        return folder_of(self.home, self.ledger_url)


@dataclass(frozen=True)
class Ended:
    """How the work on one segment ended."""

    segment_key: str
    attempt_id: int
    state: AttemptState
    steps: int
    """Optimiser steps done by this attempt."""
    seconds: float


@dataclass(frozen=True)
class Taken:
    """A segment in hand."""

    claim: Claim

    @cached_property
    def program(self) -> Program:
        """What its claim says is to be trained. Raises ProgramError where this version cannot."""
        return Program.from_dict(self.claim.program)


class Worker:
    """Takes segments one after the other, on behalf of a controller."""

    def __init__(
        self, engine: Engine, assignment: Assignment, name: str, place: Place, *, workers: int = 1
    ) -> None:
        """`name`: "host:process id/trial", as the ledger shall show it. `place`: whose segments it takes up, beside how
        many `workers`, itself counted.
        """
        self._workers = workers
        self._engine = engine
        self._place = place
        self._assignment = assignment
        self._name = name
        self._candidates: collections.deque[str] = collections.deque()
        self._candidates_until = 0.0
        self._log_lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        handler = _Tail(self._log_lines)
        logging.getLogger("trainer").addHandler(handler)
        logging.getLogger("orchestrator").addHandler(handler)

    def work(self, segment_key: str | None) -> list[Ended]:
        """Carry out that segment, or, where it is not to be had, the most urgent one, and in one pack with it whatever
        else it pays to train so. Empty: nothing is ready.
        """
        claim = self._claim(segment_key)
        if claim is None:
            return []
        taken = Taken(claim)
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
                found.append(Taken(claim))
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
                lambda: self._data(taken),
                ready=ready,
                siblings=len(keys),
                steps=claim.end_step - (claim.resume_step or claim.start_step),
            )

    def _data(self, taken: Taken) -> Path:
        path, program = Path(taken.claim.data_path), taken.program
        if program.then is not None:  # its copy lies beside the first one's, where the trainer looks
            copies.on_this_machine(path, program.then.data.digest, self._assignment.storage)
        return copies.on_this_machine(path, program.data.digest, self._assignment.storage)

    def _spool(self, claim: Claim) -> Spool:
        return Spool(
            Machine().sample, Journal(self._assignment.journals, claim.segment_key, claim.attempt_id)
        )

    def _carry_out(self, members: Sequence[Taken]) -> list[Ended]:
        self._log_lines.clear()
        began = time.monotonic()
        leases = [Lease(self._engine, taken.claim, self._spool(taken.claim)) for taken in members]
        ended: dict[int, Ended] = {}

        def end(place: int, ending: Ending) -> None:
            lease = leases[place]
            state, step = self._settle(lease, ending)
            begin = lease.claim.resume_step or lease.claim.start_step
            key, attempt = lease.claim.segment_key, lease.claim.attempt_id
            ended[place] = Ended(key, attempt, state, step - begin, time.monotonic() - began)

        with ExitStack() as held:
            for lease in leases:
                held.enter_context(lease)
            try:
                # torch and transformers take seconds to import: only where there is something to train.
                from trainer.segment import train_pack

                orders = [self._order(*member) for member in zip(members, leases, strict=True)]
                device = orders[0].program.numerics.device_type
                for place, ending in train_pack(orders, device=device):
                    end(place, ending)
            except Exception as error:
                # Of no single member: whoever has not ended, ends with it.
                for place in set(range(len(leases))) - set(ended):
                    end(place, error)
        return [ended[place] for place in range(len(leases))]

    def _order(self, taken: Taken, lease: Lease) -> Order:
        from trainer.course import Order

        claim, execution = taken.claim, taken.claim.execution
        return Order(
            program=taken.program,
            start=claim.start_step,
            end=claim.end_step,
            data=self._data(taken),
            parent=claim.parent_checkpoint,
            output="/".join(
                [self._assignment.storage, "segments", claim.segment_key[:2], claim.segment_key]
                + [f"attempt-{claim.attempt_id}"]
            ),
            sink=lease.spool,
            checkpoint_every=int(execution.get("checkpoint_every") or 0),
            resume_from=claim.resume_from,
            on_checkpoint=lease.note_checkpoint,
            should_stop=lease.should_stop,
            evaluate_every=int(execution.get("evaluate_every") or 0),
            log_every=int(execution.get("log_every") or 10),
            # The first death may have been the pack's: alone it may fit as it is.
            halvings=max(0, claim.memory_kills - 1),
        )

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


class _Tail(logging.Handler):
    """Keeps the last lines that were logged."""

    def __init__(self, lines: collections.deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage()[:500])
