"""What tests read in a ledger while others write it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

#: Seconds that a test waits for another process: a loaded machine is no defect.
PATIENCE = 240.0


def rows(engine: Engine, statement: str, **parameters: Any) -> list[Any]:
    """The rows of a query, now."""
    with engine.connect() as connection:
        return list(connection.execute(text(statement), parameters))


def until(
    condition: Callable[[], Any], seconds: float = PATIENCE, saw: Callable[[], str] | None = None
) -> Any:
    """Wait for a condition and return what it gave. After so many seconds it fails, with what `saw` tells."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"the condition did not come true within {seconds:g} s\n{saw() if saw else ''}"
            )
        time.sleep(0.05)
    return found


def scene(engine: Engine, home: Path) -> str:
    """What there is to see when something does not come: the ledger, who does what in Postgres, the logs' ends."""
    lines = []
    for query in (
        "SELECT id, process, started_at, ended_at, stopping FROM controllers ORDER BY started_at",
        "SELECT name, state FROM sweeps",
        "SELECT left(key, 8), start_step, end_step, state, progress_step, retry_at FROM segments ORDER BY start_step",
        "SELECT id, left(segment_key, 8), worker, state, kind, started_step, step, started_at, ended_at, "
        "left(reason, 300) FROM attempts ORDER BY id",
        "SELECT pid, state, wait_event, left(query, 100) FROM pg_stat_activity WHERE datname = current_database()",
        "SELECT pid, locktype, mode, granted, objid FROM pg_locks WHERE locktype = 'advisory' OR NOT granted",
    ):
        lines.append(f"-- {query}")
        try:
            lines += [str(tuple(row)) for row in rows(engine, query)]
        except DBAPIError as error:
            lines.append(f"the ledger does not answer: {error.orig}")
    for log in sorted((home / "logs").glob("*.log")):
        lines.append(f"-- {log.name}")
        lines += log.read_text(errors="replace").splitlines()[-30:]
    return "\n".join(lines)


def completed_twice(engine: Engine) -> list[Any]:
    """Segments that more than one attempt completed: there must be none."""
    return rows(
        engine,
        "SELECT segment_key FROM attempts WHERE state = 'completed' GROUP BY segment_key HAVING count(*) > 1",
    )


def losses(engine: Engine) -> dict[str, float]:
    """Name of each run → its loss."""
    return {row.name: row.loss for row in rows(engine, "SELECT name, loss FROM runs ORDER BY id")}
