"""Controllers: which processes hand out segments, and which of them leads."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

#: Session-level advisory lock that the leading controller holds; Postgres drops it when the leader's connection dies.
LEADER_LOCK = 0x1AC0_0003

#: First key of the shared advisory locks that processes hold on the sweeps (second key: the id) that they want served
#: by whoever leads. Such a wish, too, ends with the connection.
WISH_LOCK = 0x1AC1


@dataclass(frozen=True)
class Leader:
    """The controller that leads, or led last."""

    id: str
    host: str
    process: int
    started_at: datetime
    alive: bool


class Leadership:
    """The advisory lock on a connection of its own. Lost with the connection; `still_held` asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._wished = False

    def try_acquire(self) -> bool:
        """Become the leader if nobody leads."""
        return bool(self._ask("SELECT pg_try_advisory_lock(:key)", key=LEADER_LOCK))

    def wish(self, sweep_ids: Sequence[int]) -> None:
        """Ask whoever leads to serve these sweeps, for as long as the connection lives."""
        if not self._wished:
            for sweep_id in sweep_ids:
                self._ask(
                    "SELECT true FROM pg_advisory_lock_shared(CAST(:class AS int), CAST(:sweep AS int))",
                    **{"class": WISH_LOCK, "sweep": sweep_id},
                )
            self._wished = True

    def _ask(self, statement: str, **parameters: object) -> object:
        """One value, on the connection that holds the locks. A broken one is given up: the next call makes another."""
        try:
            return self._connected().scalar(text(statement), parameters)
        except DBAPIError:
            self.release()
            raise

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # A leader whose machine vanished without a word is noticed after 3 probes, 5 s apart.
            for name, value in (("idle", 5), ("interval", 3), ("count", 3)):
                connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            self._connection = connection
        return self._connection

    def still_held(self) -> bool:
        """Whether the connection, and with it the lock, is alive. Raises OperationalError when it is not."""
        return self._connection is not None and self._connection.scalar(text("SELECT true")) is True

    def release(self) -> None:
        """Let another lead."""
        if self._connection is not None:
            # Closed for good, not returned to the pool with its lock.
            self._connection.invalidate()
            self._connection.close()
            self._connection, self._wished = None, False


def sign_of_life(session: Session) -> tuple[int, datetime] | None:
    """The server's process for the connection that holds the leader's lock, and when the leader last asked it
    something, which it does again and again (`Leadership.still_held`). None: nobody leads."""
    row = session.execute(
        text("""
            SELECT pid, state_change FROM pg_locks JOIN pg_stat_activity USING (pid)
            WHERE locktype = 'advisory' AND granted AND database = datid AND datname = current_database()
                AND ((classid::bigint << 32) | objid::bigint) = :key
        """),
        {"key": LEADER_LOCK},
    ).one_or_none()
    return None if row is None else (row.pid, row.state_change)


def depose(session: Session, sign: tuple[int, datetime]) -> None:
    """End the connection of a leader that gave no other sign of life than this one: others can lead then."""
    session.execute(
        text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND state_change = :since"
        ),
        {"pid": sign[0], "since": sign[1]},
    )


def served(session: Session, sweep_ids: Sequence[int] | None) -> tuple[int, ...] | None:
    """The sweeps that a leader serves which was started for `sweep_ids`: these, and those that other processes wish
    for. None stays None: all."""
    if sweep_ids is None:
        return None
    wished = session.scalars(
        text("""
            SELECT DISTINCT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND classid::bigint = :class
        """),
        {"class": WISH_LOCK},
    )
    return tuple(dict.fromkeys([*sweep_ids, *wished]))


def register(session: Session, controller: str) -> None:
    """Enter a controller that has just begun to lead, as this process on this host."""
    session.execute(
        text("INSERT INTO controllers (id, host, process, stopping) VALUES (:id, :host, :process, false)"),
        {"id": controller, "host": socket.gethostname(), "process": os.getpid()},
    )


def stop(session: Session, controller: str) -> None:
    """Ask the workers of a controller, through their heartbeats, to stop at their next checkpoint."""
    session.execute(text("UPDATE controllers SET stopping = true WHERE id = :id"), {"id": controller})


def end(session: Session, controller: str) -> None:
    """Enter that a controller ended in good order."""
    session.execute(text("UPDATE controllers SET ended_at = now() WHERE id = :id"), {"id": controller})


def leader(session: Session) -> Leader | None:
    """The newest controller, and whether anyone holds the lock now. None: there never was one."""
    row = session.execute(
        text("SELECT id, host, process, started_at FROM controllers ORDER BY started_at DESC LIMIT 1")
    ).one_or_none()
    if row is None:
        return None
    alive = session.scalar(
        text("""
            SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND ((classid::bigint << 32) | objid::bigint) = :key)
        """),
        {"key": LEADER_LOCK},
    )
    return Leader(**row._mapping, alive=bool(alive))
