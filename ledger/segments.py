"""Segments: which can be handed out now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.errors import LedgerError
from ledger.models import Segment

#: SQL: whether an active sweep still waits for the segment `segments.key`.
WANTED = """
    EXISTS (SELECT 1 FROM run_segments JOIN runs ON runs.id = run_id JOIN sweeps ON sweeps.id = sweep_id
            WHERE segment_key = segments.key AND runs.state = 'pending' AND sweeps.state = 'active')
"""

#: SQL: whether the segment can be handed out: its parent's state is there, and no failure of it is too fresh.
READY = """
    segments.state = 'pending' AND coalesce(segments.retry_at <= now(), true)
    AND (segments.parent_key IS NULL
         OR EXISTS (SELECT 1 FROM segments parent WHERE parent.key = segments.parent_key
                    AND parent.state = 'completed' AND parent.checkpoint IS NOT NULL))
"""


#: Attempts by which it is seen whose turn was last: a sweep that has none of them waits longest.
RECENT_ATTEMPTS = 64


@dataclass(frozen=True)
class Demand:
    """What there is to do for a set of sweeps."""

    ready: int
    """Segments that could be handed out now."""
    running: int
    """Segments that a worker holds."""
    open: int
    """Segments not ended that runs of active sweeps still wait for, ready and running ones included."""


def get(session: Session, key: str) -> Segment:
    """The segment of that key. Raises LedgerError."""
    segment = session.get(Segment, key)
    if segment is None:
        raise LedgerError(f"there is no segment {key[:12]}")
    return segment


def completed(session: Session, keys: Sequence[str], *, before: datetime | None = None) -> list[str]:
    """Those of these keys whose segment is completed; `before`: and was so by then."""
    # One array, not a parameter each: a plan may have tens of thousands of keys.
    done = text("""
        SELECT key FROM segments WHERE state = 'completed' AND key = ANY(:keys)
            AND (CAST(:before AS timestamptz) IS NULL OR completed_at < :before)
    """)
    return list(session.scalars(done, {"keys": list(keys), "before": before}))


def ready(session: Session, *, sweep_ids: Sequence[int] | None = None, limit: int = 64) -> list[str]:
    """Keys of the segments to hand out, most urgent first: by the sweep's priority, then by the FLOPs that wait
    behind the segment. Sweeps of equal priority take turns: first that which has least running, of several such that
    whose last turn is longest ago.

    `sweep_ids` limits it to segments that these sweeps need; None: all active sweeps.
    """
    rows = session.execute(
        text(f"""
            WITH busy AS (
                SELECT sweep_id, count(DISTINCT segments.key) AS running
                FROM segments JOIN run_segments ON segment_key = key JOIN runs ON runs.id = run_id
                WHERE segments.state = 'running' GROUP BY sweep_id
            ), served AS (
                SELECT sweep_id, max(recent.id) AS last
                FROM (SELECT id, segment_key FROM attempts ORDER BY id DESC LIMIT :recent) recent
                JOIN run_segments USING (segment_key) JOIN runs ON runs.id = run_id GROUP BY sweep_id
            ), candidates AS (
                SELECT DISTINCT ON (segments.key) segments.key, segments.priority, segments.start_step, sweep_id,
                    sweeps.priority AS sweep_priority, coalesce(running, 0) AS running, coalesce(last, 0) AS last
                FROM segments JOIN run_segments ON segment_key = segments.key JOIN runs ON runs.id = run_id
                JOIN sweeps ON sweeps.id = sweep_id LEFT JOIN busy USING (sweep_id) LEFT JOIN served USING (sweep_id)
                WHERE {READY} AND runs.state = 'pending' AND sweeps.state = 'active'
                    AND (CAST(:sweeps AS bigint[]) IS NULL OR sweeps.id = ANY(:sweeps))
                ORDER BY segments.key, sweeps.priority DESC, running, last, sweep_id
            ), turns AS (
                SELECT *, running + row_number() OVER (
                    PARTITION BY sweep_id ORDER BY priority DESC, start_step, key) AS turn FROM candidates
            )
            SELECT key FROM turns
            ORDER BY sweep_priority DESC, turn, last, priority DESC, start_step, key LIMIT :limit
        """),
        {
            "sweeps": None if sweep_ids is None else list(sweep_ids),
            "limit": limit,
            "recent": RECENT_ATTEMPTS,
        },
    )
    return [row.key for row in rows]


def demand(session: Session, *, sweep_ids: Sequence[int] | None = None) -> Demand:
    """How much there is to do for these sweeps, or for all active ones."""
    row = session.execute(
        text(f"""
            SELECT count(*) FILTER (WHERE {READY}) AS ready,
                count(*) FILTER (WHERE segments.state = 'running') AS running, count(*) AS open
            FROM segments
            WHERE segments.state IN ('pending', 'running') AND segments.key IN (
                SELECT segment_key FROM run_segments JOIN runs ON runs.id = run_id
                JOIN sweeps ON sweeps.id = sweep_id
                WHERE runs.state = 'pending' AND sweeps.state = 'active'
                    AND (CAST(:sweeps AS bigint[]) IS NULL OR sweeps.id = ANY(:sweeps)))
        """),
        {"sweeps": None if sweep_ids is None else list(sweep_ids)},
    ).one()
    return Demand(row.ready, row.running, row.open)


def siblings(
    session: Session, key: str, alike: Sequence[str], *, sweep_ids: Sequence[int] | None, limit: int
) -> list[str]:
    """Keys of segments to hand out now that cover the steps of this one, in programs that agree with its in the fields
    `alike` (JSON values of `Program.to_dict`); those first that most waits for. None that failed or killed its worker:
    it would take the others with it.

    `sweep_ids`: as for `ready`.
    """
    agree = " AND ".join(f"segments.program -> '{name}' = this.program -> '{name}'" for name in alike)
    rows = session.execute(
        text(f"""
            SELECT segments.key FROM segments, segments this
            WHERE this.key = :key AND segments.key <> this.key AND {READY}
                AND segments.start_step = this.start_step AND segments.end_step = this.end_step
                AND segments.data_path = this.data_path AND {agree}
                AND segments.retry_at IS NULL AND NOT EXISTS (SELECT 1 FROM attempts
                    WHERE segment_key = segments.key AND attempts.state = 'lost' AND kind = 'memory')
                AND EXISTS (SELECT 1 FROM run_segments JOIN runs ON runs.id = run_id JOIN sweeps ON sweeps.id = sweep_id
                    WHERE segment_key = segments.key AND runs.state = 'pending' AND sweeps.state = 'active'
                    AND (CAST(:sweeps AS bigint[]) IS NULL OR sweeps.id = ANY(:sweeps)))
            ORDER BY segments.priority DESC, segments.key LIMIT :limit
        """),
        {"key": key, "sweeps": None if sweep_ids is None else list(sweep_ids), "limit": limit},
    )
    return [row.key for row in rows]
