"""Metric points: what was measured after a step. Stored once a segment, however many runs share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.attempts import hold
from ledger.errors import Fenced


class Point(NamedTuple):
    """One value of one metric after `step` steps of the run (counted from the run's start, not the segment's)."""

    step: int
    name: str
    value: float
    milliseconds: int = 0
    """When it reached the ledger, since 1970; 0 when inserting: now."""


def insert(
    session: Session, attempt_id: int, segment_key: str, rows: Sequence[tuple[int, str, float]]
) -> int:
    """Add (step, name, value) rows; those that are there already stay. How many were new.

    Raises Fenced when the attempt does not hold that segment and there are rows.
    """
    if not rows:
        return 0
    if hold(session, attempt_id) != segment_key:
        raise Fenced(f"attempt {attempt_id} does not hold segment {segment_key[:12]}")
    return replay(session, segment_key, rows)


def replay(session: Session, segment_key: str, rows: Sequence[tuple[int, str, float]]) -> int:
    """As `insert`, for what a worker had measured before it died: by now others may hold the segment. It changes
    nothing that they say: a point is a function of its segment and step. A segment that is gone gets none.
    """
    if not rows:
        return 0
    steps, names, values = zip(*rows, strict=True)
    inserted = session.execute(
        text("""
            INSERT INTO metric_points (segment_key, step, name, value)
            SELECT key, point.* FROM segments,
                unnest(CAST(:steps AS bigint[]), CAST(:names AS text[]), CAST(:values AS float8[])) AS point
            WHERE key = :key
            ON CONFLICT DO NOTHING RETURNING 1
        """),
        {"key": segment_key, "steps": list(steps), "names": list(names), "values": list(map(float, values))},
    )
    return len(inserted.all())


def of_run(
    session: Session, run_id: int, *, after_step: int = -1, names: Sequence[str] | None = None
) -> list[Point]:
    """The run's history after a step, by step and name, with its trunk's points."""
    rows = session.execute(
        text("""
            SELECT step, name, value, (extract(epoch FROM at) * 1000)::bigint AS milliseconds
            FROM metric_points JOIN run_segments USING (segment_key)
            WHERE run_id = :run AND step > :after AND (CAST(:names AS text[]) IS NULL OR name = ANY(:names))
            ORDER BY step, name
        """),
        {"run": run_id, "after": after_step, "names": None if names is None else list(names)},
    )
    return [Point(*row) for row in rows]
