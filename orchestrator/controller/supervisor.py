"""What happens beside the training: a thread that watches leases, leadership and the database, and reports."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger import attempts, controllers, sweeps
from ledger.engine import ledger_url
from ledger.errors import LedgerError
from ledger.models import AttemptEnd, AttemptState
from ledger.settings import Settings
from ledger.sweeps import Place
from orchestrator.controller.failures import kind_of_death
from orchestrator.tracking.journal import replay

if TYPE_CHECKING:
    from orchestrator.controller.searcher import LedgerSearcher  # imports Ray, which is set up first

#: Deaths in a row, of workers of one place that had taken nothing up, after which there is no use in starting more.
USELESS_STARTS = 10

#: Seconds between two looks.
PERIOD_SECONDS = 1.0

#: Seconds between two looks, by the ledger's clock, from which on something stood still: less than a lease and a
#: heartbeat.
LONGEST_GAP = 10.0

#: Seconds within which a wish to stop is passed on.
REACTION_SECONDS = 0.1

log = logging.getLogger(__name__)


class Supervisor:
    """Runs beside Tune while this controller leads."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        leadership: controllers.Leadership,
        controller: str,
        stopping: threading.Event,
        *,
        journals: Path,
        each_second: Sequence[Callable[[Session], None]] = (),
    ) -> None:
        """journals: of the workers on this machine; those of dead ones tell why they died. each_second: called with a
        session of its own."""
        self._engine = engine
        self._journals = journals
        self._settings = settings
        self._leadership = leadership
        self._controller = controller
        self._stopping = stopping
        self._each_second = each_second
        self._told_to_stop = False
        self._looked_at: datetime | None = None
        self._steady_since: datetime
        """Since when, by the ledger's clock, one look followed the other."""
        self._complaint = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self.searcher: LedgerSearcher | None = None
        self.deposed = False
        """Another controller leads: this one hands out nothing more."""

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _loop(self) -> None:
        looked_at, stopping = time.monotonic(), False
        while not self._over.wait(REACTION_SECONDS):
            news = self._stopping.is_set() and not stopping
            if time.monotonic() - looked_at < PERIOD_SECONDS and not news:
                continue
            looked_at, stopping = time.monotonic(), self._stopping.is_set()
            if self._done(self._look):
                for callback in self._each_second:
                    self._done(partial(self._call, callback))

    def _done(self, action: Callable[[], None]) -> bool:
        """Do it; whether it was done. Whatever it raises, this thread lives on: without it nothing would be given up,
        and nothing stopped."""
        try:
            action()
        except (DBAPIError, LedgerError) as error:
            log.warning("the ledger does not answer: %s", getattr(error, "orig", error))
            if isinstance(error, DBAPIError):
                revive(self._settings)
        except Exception as error:
            complaint = f"{type(error).__name__}: {error}"
            if complaint != self._complaint:  # not every second anew
                log.exception("the controller goes on, although this went wrong")
            self._complaint = complaint
        else:
            return True
        return False

    def _call(self, callback: Callable[[Session], None]) -> None:
        with Session(self._engine) as session, session.begin():
            callback(session)

    def _look(self) -> None:
        self._keep_leading()
        stopping = self._stopping.is_set()
        if self.searcher is not None and self.searcher.lost_trials:
            replay(self._engine, self._journals)
        with Session(self._engine) as session, session.begin():
            if stopping and not self._told_to_stop:
                controllers.stop(session, self._controller)
            self._free_lost_trials(session)
            if self._heartbeats_count(session) and attempts.expire(session):
                self._wake()
        self._told_to_stop = stopping

    def _heartbeats_count(self, session: Session) -> bool:
        """Whether an old heartbeat means that its worker is gone.

        After an outage every heartbeat is old: the living get time to prolong their leases first. So it is where the
        ledger, this process or the whole machine stood still (a laptop that was closed), which nobody is told of, and
        where the ledger's clock was set.
        """
        now: datetime = session.execute(text("SELECT now()")).scalar_one()
        gap = None if self._looked_at is None else (now - self._looked_at).total_seconds()
        self._looked_at = now
        if gap is None or not 0 <= gap <= LONGEST_GAP:
            self._steady_since = now
        return (now - self._steady_since).total_seconds() > attempts.LEASE_SECONDS

    def _keep_leading(self) -> None:
        try:
            if self._leadership.still_held():
                return
        except DBAPIError:
            self._leadership.release()
            raise
        if self._leadership.try_acquire():
            log.warning("leadership was lost with the connection, and regained")
            return
        log.error("another controller leads: stopping")
        self.deposed = True
        self._stopping.set()

    def _free_lost_trials(self, session: Session) -> None:
        if self.searcher is None:
            return
        for trial, told in list(self.searcher.lost_trials.items()):
            kind, reason = (
                kind_of_death(told),
                f"the worker's process ended, or its node went away; Ray says: {told}",
            )
            known = session.execute(
                text("SELECT id, state FROM attempts WHERE worker LIKE '%/' || :trial"), {"trial": trial}
            ).all()
            for attempt in known:
                if attempt.state == AttemptState.running:
                    attempts.lose(session, attempt.id, reason, kind)
            place, key = self.searcher.given.pop(trial, (None, None))
            if place is not None and key is not None:
                if known:
                    self.searcher.useful(place)
                else:
                    self._died_early(session, self.searcher, place, key, trial, kind, reason)
            del self.searcher.lost_trials[trial]
        self._wake()

    def _died_early(
        self,
        session: Session,
        searcher: LedgerSearcher,
        place: Place,
        key: str,
        trial: str,
        kind: AttemptEnd,
        reason: str,
    ) -> None:
        """A worker died that had taken nothing up: what it was to begin with shows why, and waits a little; where one
        after the other does, the sweeps of its place fail."""
        useless = searcher.fruitless(place) >= USELESS_STARTS
        if useless:
            reason = (
                f"{USELESS_STARTS} workers in a row died on pool {place.pool!r} before they took anything up, so its "
                f"sweeps are given up; `lacuna retry SWEEP` tries again. The last: {reason}"
            )
            log.error("%s", reason)
        claim = attempts.claim(session, key, self._controller, f"none: it did not start/{trial}")
        if claim is not None:
            attempts.lose(session, claim.attempt_id, reason, kind)
        placed = sweeps.by_place(session, controllers.served(session, searcher.sweep_ids)).get(place)
        if useless and placed is not None and attempts.give_up(session, placed.sweep_ids, reason):
            searcher.useful(place)

    def _wake(self) -> None:
        if self.searcher is not None:
            self.searcher.wake()


def revive(settings: Settings) -> None:
    """Start the embedded server again, should it be that which died."""
    if settings.database_url is None:
        try:
            ledger_url(settings)
        except (LedgerError, DBAPIError) as error:
            log.warning("the embedded Postgres does not start: %s", error)
