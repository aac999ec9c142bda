"""NOTIFY channels: who wakes whom. A notification may be lost; whoever listens also polls, slowly."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger.engine import CONNECT_SECONDS, KEEPALIVE

#: A run ended. The payload is the name of its sweep.
RUNS = "lacuna_runs"

#: There is something to hand out, or to stop: a sweep was added, extended, paused, resumed or cancelled.
WORK = "lacuna_work"

#: A fit was stored. The payload is {"sweep": name, "version": number} as JSON.
FITS = "lacuna_fits"


def notify(session: Session, channel: str, payload: str | dict[str, object] = "") -> None:
    """Wake the listeners of a channel when the session's transaction commits."""
    message = payload if isinstance(payload, str) else json.dumps(payload)
    session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": message})


class Listener:
    """Waits for notifications on a connection of its own; reconnects after an outage."""

    def __init__(self, engine: Engine, *channels: str) -> None:
        self._url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._channels = channels
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """The (channel, payload) pairs that came within so many seconds: returns at the first, or empty.

        Raises psycopg.OperationalError when the database does not answer; the next call connects anew.
        """
        try:
            return list(self._notifications(seconds))
        except psycopg.OperationalError:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back; `wait` may still be called."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _notifications(self, seconds: float) -> Iterator[tuple[str, str]]:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._url, autocommit=True, connect_timeout=CONNECT_SECONDS, **KEEPALIVE
            )
            for channel in self._channels:
                self._connection.execute(f"LISTEN {channel}".encode())
        for notification in self._connection.notifies(timeout=seconds, stop_after=1):
            yield notification.channel, notification.payload
