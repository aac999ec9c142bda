"""Ray Tune's searcher over the ledger: hands out what is ready while it is ready, and ends when nothing is wanted."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from ray.tune.search import Searcher
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ledger import controllers, segments, sweeps
from ledger.sweeps import Place
from orchestrator.controller.placing import Placing
from orchestrator.pools import PoolError

#: Seconds after which the ledger is asked again although nothing was heard: backoffs end, sweeps are resumed.
POLL_SECONDS = 1.0

#: Longest pause, in seconds, before another worker is started where one after the other dies without a result.
LONGEST_PAUSE = 30.0

#: Seconds for which a worker makes no room for runs that take another number of its devices: to start the processes for
#: them takes several.
LEAST_WALK_SECONDS = 60.0

log = logging.getLogger(__name__)


class LedgerSearcher(Searcher):  # type: ignore[misc]
    """Suggests {"segment": key, "pool": name, "device": kind, "devices": n, "workers": m}, as many at once as a place
    has workers; never one twice while it is on offer."""

    def __init__(
        self,
        engine: Engine,
        *,
        sweep_ids: tuple[int, ...] | None,
        placing: Placing,
        stopping: threading.Event,
    ) -> None:
        super().__init__()
        self._engine = engine
        self.sweep_ids = sweep_ids
        self._placing = placing
        self._stopping = stopping
        self._live: dict[str, Place] = {}
        self._began: dict[str, float] = {}
        self._offered: dict[str, str] = {}
        self._ready: dict[Place, list[str]] = {}
        """The most urgent place first."""
        self._workers: dict[Place, int] = {}
        self._refused: set[Place] = set()
        self._asked_at = float("-inf")
        self._over = False
        self._fruitless: collections.Counter[Place] = collections.Counter()
        self._not_before: dict[Place, float] = {}
        self.lost_trials: dict[str, str] = {}
        """Trials whose worker died, and what Ray says of it: the supervisor frees what they held."""
        self.given: dict[str, tuple[Place, str]] = {}
        """Where the trials run that live or died, and the segment that each was to begin with."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next segment; None while all that is wanted waits for others; FINISHED when nothing is wanted."""
        self._look()
        if self._stopping.is_set() or (self._over and not self._live):
            return str(Searcher.FINISHED)
        now = time.monotonic()
        busy = collections.Counter(self._live.values())
        held: set[tuple[str, str]] = set()
        for place, ready in self._ready.items():
            if not self._wants_worker(place, busy) or place.kind in held:
                continue
            if not self._has_room(place, busy):
                # Whoever is less urgent and takes fewer devices would get those that come free, one by one.
                held.add(place.kind)
                continue
            key = ready.pop(0)
            self._live[trial_id] = place
            self._offered[trial_id] = key
            self._began[trial_id] = now
            self.given[trial_id] = place, key
            return {"segment": key, **place._asdict(), "workers": self._workers[place]}
        return None

    def makes_room(self, trial_id: str) -> bool:
        """Whether a worker that is between two packs should end: what is more urgent waits for its devices, for runs
        that take another number of them."""
        own = self._live.get(trial_id)
        if own is None or time.monotonic() - self._began[trial_id] < LEAST_WALK_SECONDS:
            return False
        busy = collections.Counter(self._live.values())
        for place in self._ready:
            if place == own:
                return False
            if place.kind == own.kind and self._wants_worker(place, busy) and not self._has_room(place, busy):
                return True
        return False

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A segment ended, so that others may be ready."""
        if (place := self._live.get(trial_id)) is not None:
            self.useful(place)
        self._offered.pop(trial_id, None)
        self._asked_at = float("-inf")

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A worker ran out of work, or died."""
        place = self._live.pop(trial_id, None)
        self._began.pop(trial_id, None)
        self._offered.pop(trial_id, None)
        self._asked_at = float("-inf")
        if not error:
            self.given.pop(trial_id, None)
        elif place is not None:
            # Workers that die as soon as they start would otherwise be started over and over, at once.
            self._fruitless[place] += 1
            self._not_before[place] = time.monotonic() + min(
                LONGEST_PAUSE, 2.0 ** (self._fruitless[place] - 4)
            )

    def useful(self, place: Place) -> None:
        """A worker there did something: its place is none where workers only die."""
        del self._fruitless[place]

    def fruitless(self, place: Place) -> int:
        """How many workers in a row died there since one did something."""
        return self._fruitless[place]

    def wake(self) -> None:
        """Ask the ledger at the next opportunity."""
        self._asked_at = float("-inf")

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger knows."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger knows."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles a snapshot of all it was given; nobody restores from it, and a connection cannot be pickled.
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> LedgerSearcher:
        return self

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._asked_at < POLL_SECONDS:
            return
        try:
            with Session(self._engine) as session:
                served = controllers.served(session, self.sweep_ids)
                self._ready = self._ready_by_place(session, served)
                self._over = (
                    not any(self._ready.values()) and segments.demand(session, sweep_ids=served).open == 0
                )
        except SQLAlchemyError as error:
            log.warning("the ledger does not answer: %s", getattr(error, "orig", error))
            self._ready = {}
        self._asked_at = now

    def _wants_worker(self, place: Place, busy: Mapping[Place, int]) -> bool:
        """Whether one more could begin there, were its devices free."""
        ready, now = self._ready[place], time.monotonic()
        return bool(ready) and busy[place] < self._workers[place] and now >= self._not_before.get(place, now)

    def _has_room(self, place: Place, busy: Mapping[Place, int]) -> bool:
        """Whether the devices that a worker there takes are free, where others take other numbers of them."""
        used = {other: other.devices * count for other, count in busy.items() if other.kind == place.kind}
        alone = not set(used) - {place}
        return alone or sum(used.values()) + place.devices <= self._placing.devices(place)

    def _ready_by_place(self, session: Session, served: tuple[int, ...] | None) -> dict[Place, list[str]]:
        """What could be handed out now, most urgent first. A full pool holds up no other."""
        found: dict[Place, list[str]] = {}
        offered = set(self._offered.values())
        places = sweeps.by_place(session, served)
        for place, placed in places.items():
            try:
                self._workers[place] = self._placing.workers(place, placed)
            except PoolError as error:
                if place not in self._refused:
                    log.error("sweeps %s wait: %s", ", ".join(map(str, placed.sweep_ids)), error)
                self._refused.add(place)
                continue
            keys = segments.ready(session, sweep_ids=placed.sweep_ids, limit=4 * self._workers[place] + 4)
            found[place] = [key for key in keys if key not in offered]
        if len(found) < 2:
            return found
        ids = [sweep for place in found for sweep in places[place].sweep_ids]
        urgency = segments.ready(session, sweep_ids=ids, limit=sum(map(len, found.values())))
        rank = {key: index for index, key in enumerate(urgency)}

        def urgent(place: Place) -> int:
            return min((rank.get(key, len(rank)) for key in found[place]), default=len(rank))

        return {place: found[place] for place in sorted(found, key=urgent)}
