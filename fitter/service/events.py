"""Server-sent events of a sweep: what changed since the client last heard, and nothing twice without need.

An event's id is the whole position of the stream after it (newest law, time of the last ended run, digest of the
progress), so a client that comes back with `Last-Event-ID`, to this process or to another, gets what it missed. Nothing
has to be kept for clients that are away. Runs are told at least once: transactions that commit out of order are covered
by looking back a few seconds, and a client that reconnects may hear of those runs again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from fitter.service import queries
from fitter.service.context import Context
from fitter.service.progress import progress
from fitter.service.routes.runs import describe

PERIOD = 1.0
"""Seconds between looks at the ledger, one look for all listeners of a sweep."""
LOOK_BACK = timedelta(seconds=10)
"""How much later than its time a run's end may become visible."""
SILENCE = 15.0
"""Seconds after which an idle stream sends a comment, so that proxies keep it open."""
MOST_STREAMS = 200


@dataclass(frozen=True)
class Position:
    """What a listener has heard of."""

    version: int = 0
    ended: datetime | None = None
    digest: str = ""

    def __str__(self) -> str:
        micros = 0 if self.ended is None else round(self.ended.timestamp() * 1e6)
        return f"{self.version}.{micros}.{self.digest}"

    @classmethod
    def parse(cls, text: str | None) -> Position | None:
        """The position in an event's id; None for anything that is none."""
        try:
            version, micros, digest = (text or "").split(".")
            ended = datetime.fromtimestamp(int(micros) / 1e6, UTC) if int(micros) else None
            return cls(int(version), ended, digest[:16])
        except (ValueError, OverflowError, OSError):
            return None

    @classmethod
    def after(cls, now: Snapshot) -> Position:
        """Where a listener stands who has heard of every law and every ended run, and of no progress."""
        ended = max((at for at, _, _ in now.runs), default=datetime.fromtimestamp(1, UTC))
        return cls(max((version for version, _ in now.fits), default=0), ended)


@dataclass(frozen=True)
class Event:
    """One event as it is sent."""

    kind: str
    data: str
    position: Position

    def encode(self) -> bytes:
        """The event's lines."""
        return f"event: {self.kind}\nid: {self.position}\ndata: {self.data}\n\n".encode()


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one moment, as far as its listeners are concerned."""

    progress: str
    digest: str
    fits: list[tuple[int, str]]
    """(version, what is said of it), the newest versions, oldest first."""
    runs: list[tuple[datetime, int, str]]
    """(ended at, position, the run as JSON), those that ended last, oldest first."""


NEWEST = 500
"""Ended runs and fits that a snapshot looks back on; a client that missed more reloads the page."""


def look(context: Context, name: str) -> Snapshot | None:
    """The sweep now; None where it is gone."""
    with Session(context.engine) as session:
        connection = session.connection()
        sweep = queries.sweep(connection, name)
        if sweep is None:
            return None
        far = progress(session, sweep)
        fits = [
            (row["version"], json.dumps(_law(row))) for row in queries.last_fits(connection, sweep.id, NEWEST)
        ]
        rows = queries.last_ended(connection, sweep.id, NEWEST)
        runs = [
            (row["completed_at"], row["position"], run.model_dump_json())
            for row, run in zip(rows, describe(context, sweep, rows), strict=True)
        ]
    data = far.model_dump(mode="json")
    for worker in data["working"]:
        worker["heartbeat_age"] = round(worker["heartbeat_age"])
    stable = {
        **data,
        "working": [{**worker, "heartbeat_age": 0} for worker in data["working"]],
        "seconds_left": 0,
    }
    digest = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:16]
    return Snapshot(json.dumps(data), digest, fits[::-1], runs[::-1])


def _law(row: Any) -> dict[str, Any]:
    said = {name: row[name] for name in ("version", "group", "form", "runs")}
    return said | {"created_at": row["created_at"].isoformat()}


def changes(position: Position, now: Snapshot, told: set[int]) -> list[Event]:
    """The events that bring a listener from `position` to `now`. `told` are runs that this stream has told of."""
    events = []
    for ended, number, run in now.runs:
        new = position.ended is None or ended > position.ended
        if (new or ended > position.ended - LOOK_BACK) and number not in told:  # type: ignore[operator]
            told.add(number)
            position = replace(position, ended=ended if new else position.ended)
            events.append(Event("run", run, position))
    for version, law in now.fits:
        if version > position.version:
            position = replace(position, version=version)
            events.append(Event("law", law, position))
    if now.digest != position.digest:
        position = replace(position, digest=now.digest)
        events.append(Event("progress", now.progress, position))
    return events


class Watch:
    """Looks at each sweep that has listeners, at most once in PERIOD, however many listen."""

    def __init__(self, context: Callable[[], Context]) -> None:
        self._context = context
        self._looks: dict[str, tuple[float, Snapshot | None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.streams = 0

    async def snapshot(self, name: str) -> Snapshot | None:
        """The sweep, no older than PERIOD."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            at, found = self._looks.get(name, (0.0, None))
            if time.monotonic() - at >= PERIOD:
                found = await run_in_threadpool(look, self._context(), name)
                self._looks[name] = (time.monotonic(), found)
            return found

    async def stream(
        self, name: str, last: Position | None, gone: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """The events of a sweep from a position on, until the client is gone or the sweep is deleted.

        Without a position the first event is the progress; what ended before is not told.
        """
        self.streams += 1
        try:
            yield b"retry: 2000\n\n"
            position, told, spoke = last, set[int](), time.monotonic()
            while not await gone():
                now = await self.snapshot(name)
                if now is None:
                    return
                if position is None:
                    position, told = Position.after(now), {number for _, number, _ in now.runs}
                for event in changes(position, now, told):
                    position, spoke = event.position, time.monotonic()
                    yield event.encode()
                if time.monotonic() - spoke > SILENCE:
                    spoke = time.monotonic()
                    yield b": still here\n\n"
                await asyncio.sleep(PERIOD)
        finally:
            self.streams -= 1
