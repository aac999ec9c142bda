"""A claim kept alive while it is worked on: heartbeats, and with them all that the ledger is told of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ledger import attempts, points
from ledger.attempts import Claim, Verdict
from ledger.errors import Fenced
from ledger.models import Attempt, AttemptState
from orchestrator.controller.patience import patiently
from orchestrator.tracking.spool import Spool

#: Seconds between heartbeats: several fit into a lease, and a pause is heard of within one.
HEARTBEAT_SECONDS = 2.0

log = logging.getLogger(__name__)


class Lease:
    """A claim kept alive by a thread: heartbeats carry points and checkpoints to the ledger and bring back orders."""

    def __init__(
        self, engine: Engine, claim: Claim, spool: Spool, *, leaving: Callable[[], bool] = lambda: False
    ) -> None:
        """`leaving`: asked at each heartbeat whether this machine is about to go (`orchestrator.leaving`)."""
        self.claim = claim
        self._leaving = leaving
        self.fenced = False
        self._engine = engine
        self.spool = spool
        self._stop_training = threading.Event()
        self._over = threading.Event()
        self._ended = False
        self._writing = threading.Lock()
        self._checkpoint: tuple[str, int] | None = None
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.spool.close(over=self._ended or (self.fenced and self._handed_in()))

    def _handed_in(self) -> bool:
        """Give the ledger what was measured of a segment that others hold by now: it is as true as what they measure,
        and should they go on from a later state that this one left, they do not measure it."""
        try:
            with Session(self._engine) as session, session.begin():
                left = self.spool.batch(up_to=self.claim.end_step)
                points.replay(session, self.claim.segment_key, left)
        except SQLAlchemyError as error:
            log.warning("points wait on the disk: %s", getattr(error, "orig", error))
            return False
        return True

    def should_stop(self) -> bool:
        """Whether the ledger told the worker to stop, or to give up, or its machine is about to go."""
        return self._stop_training.is_set()

    def note_checkpoint(self, url: str, step: int) -> bool:
        """Tell the ledger, now or with the next heartbeat that reaches it, that the work can go on from there; whether
        it knows already."""
        self._checkpoint = (url, step)
        log.info("attempt %d: checkpoint at step %d", self.claim.attempt_id, step)
        try:
            if self._write() is not Verdict.go_on:
                self._stop_training.set()
            return True
        except Fenced:
            self._give_up()
        except SQLAlchemyError as error:
            log.warning("the ledger did not take a checkpoint yet: %s", getattr(error, "orig", error))
        return False

    def end(self, write: Callable[[Session], None], state: AttemptState) -> AttemptState:
        """Store what is left and end the attempt in one transaction; `lost` if it was taken away meanwhile."""
        self._over.set()

        def once() -> None:
            self._write(then=write, everything=True)

        try:
            patiently(once)
            self._ended = True
        except Fenced:
            self.fenced = True
            # The commit may have arrived and its acknowledgement not.
            return state if patiently(self._state) is state else AttemptState.lost
        return state

    def _state(self) -> AttemptState:
        with Session(self._engine) as session:
            return session.get_one(Attempt, self.claim.attempt_id).state

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                if self._leaving():
                    self._stop_training.set()
                if self._write() is not Verdict.go_on:
                    self._stop_training.set()
            except Fenced:
                self._give_up()
                return
            except Exception as error:
                # Whatever it is (no connection to be had, no answer): without this thread the lease ends.
                log.warning("no heartbeat: %s", getattr(error, "orig", error))

    def _give_up(self) -> None:
        self.fenced = True
        self._stop_training.set()

    def _write(self, *, then: Callable[[Session], None] | None = None, everything: bool = False) -> Verdict:
        """One transaction: the spool's finished steps, the newest checkpoint, the heartbeat; and `then`."""
        attempt = self.claim.attempt_id
        with self._writing:
            checkpoint = self._checkpoint
            batch = self.spool.batch(
                up_to=self.claim.end_step if everything else checkpoint and checkpoint[1]
            )
            with Session(self._engine) as session, session.begin():
                points.insert(session, attempt, self.claim.segment_key, batch)
                if checkpoint is not None:
                    attempts.progress_checkpoint(session, attempt, checkpoint[1], checkpoint[0])
                verdict = attempts.heartbeat(
                    session,
                    attempt,
                    step=self.spool.step or self.claim.resume_step or self.claim.start_step,
                    loss=self.spool.loss,
                )
                if verdict is Verdict.fenced:
                    raise Fenced(f"attempt {attempt} no longer holds its segment")
                if then is not None:
                    then(session)
            self.spool.taken(batch)
            if self._checkpoint == checkpoint:
                self._checkpoint = None
            return verdict
