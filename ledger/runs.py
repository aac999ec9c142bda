"""Runs: the cells of a sweep, as rows of a table that the fitter and people read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

#: What a runs table always has, in this order, before whatever else the cells name.
COLUMNS = (
    *("sparsity", "nonzero_params", "data", "loss"),
    *("family", "pattern", "method", "seed", "steps", "state", "name"),
)


def table(session: Session, sweep_name: str) -> list[dict[str, Any]]:
    """All runs of a sweep in the grid's order: COLUMNS first, then `id`, `position`, `segments` (in its path),
    `step` (reached so far), `reason`, `completed_at`, and what else the cell has. `loss` is None until it ends.

    `state` is `running` while a worker holds a segment on the run's path.
    """
    rows = session.execute(
        text("""
            SELECT runs.id, runs.position, runs.name, runs.cell, runs.loss, runs.reason, runs.completed_at,
                CASE WHEN runs.state = 'pending' AND bool_or(segments.state = 'running') THEN 'running'
                    ELSE runs.state END AS state,
                count(segments.key) AS segments,
                max(CASE segments.state WHEN 'completed' THEN end_step WHEN 'running' THEN attempts.step
                    ELSE coalesce(progress_step, 0) END) FILTER (WHERE segments.key IS NOT NULL) AS step
            FROM runs JOIN sweeps ON sweeps.id = sweep_id LEFT JOIN run_segments ON run_id = runs.id
            LEFT JOIN segments ON segments.key = segment_key
            LEFT JOIN attempts ON attempts.segment_key = segments.key AND attempts.state = 'running'
            WHERE sweeps.name = :sweep GROUP BY runs.id ORDER BY runs.position
        """),
        {"sweep": sweep_name},
    )
    return [_row(dict(row._mapping)) for row in rows]


def failed_attempts(session: Session, sweep_name: str) -> list[dict[str, Any]]:
    """The attempts on a sweep's segments that did not complete, newest first: `attempt`, `segment`, `state`,
    `kind`, `worker`, `step`, `started_at`, `ended_at`, `reason`, and `runs` (names of the runs behind it)."""
    rows = session.execute(
        text("""
            SELECT attempts.id AS attempt, attempts.segment_key AS segment, attempts.state, attempts.kind,
                worker, step, started_at, ended_at, attempts.reason, array_agg(runs.name ORDER BY runs.position) AS runs
            FROM attempts JOIN run_segments USING (segment_key) JOIN runs ON runs.id = run_id
            JOIN sweeps ON sweeps.id = sweep_id
            WHERE sweeps.name = :sweep AND attempts.state IN ('failed', 'diverged', 'lost', 'stopped')
            GROUP BY attempts.id ORDER BY attempts.id DESC
        """),
        {"sweep": sweep_name},
    )
    return [dict(row._mapping) for row in rows]


def training_seconds(session: Session, sweep_name: str) -> list[dict[str, Any]]:
    """The completed runs of a sweep whose training time is known: `position`, `sparsity`, `nonzero_params`, `data`,
    `seconds`.

    The time of a run is what its whole path takes at the speed of each of its segments, shared trunk included; of an
    imported run, what its table said.
    """
    rows = session.execute(
        text("""
            SELECT position, (cell ->> 'sparsity')::float8 AS sparsity,
                (cell ->> 'nonzero_params')::float8 AS nonzero_params, (cell ->> 'data')::float8 AS data, seconds
            FROM (
                SELECT runs.id, runs.position, cell, coalesce(
                    CASE WHEN jsonb_typeof(cell -> 'seconds') = 'number' THEN (cell ->> 'seconds')::float8 END,
                    CASE WHEN bool_and((segments.result ->> 'steps_per_second')::float8 > 0) THEN
                        sum((end_step - start_step) / nullif((segments.result ->> 'steps_per_second')::float8, 0))
                    END) AS seconds
                FROM runs JOIN sweeps ON sweeps.id = sweep_id LEFT JOIN run_segments ON run_id = runs.id
                LEFT JOIN segments ON segments.key = segment_key
                WHERE sweeps.name = :sweep AND runs.state = 'completed' GROUP BY runs.id
            ) AS timed
            WHERE seconds > 0 ORDER BY position
        """),
        {"sweep": sweep_name},
    )
    return [dict(row._mapping) for row in rows]


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of the completed runs of a table, whatever their order: what a fit saw."""
    seen = [
        [row.get(column) for column in COLUMNS if column not in ("state", "name")]
        for row in rows
        if row.get("loss") is not None and row.get("state", "completed") == "completed"
    ]
    lines = sorted(json.dumps(row, separators=(",", ":")) for row in seen)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _row(row: dict[str, Any]) -> dict[str, Any]:
    cell = row.pop("cell")
    values = {**cell, **row}
    return {column: values.get(column) for column in COLUMNS} | values
