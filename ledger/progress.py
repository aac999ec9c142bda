"""How far a sweep is, and how long it will still take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import sweeps


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A sweep at one moment. Runs: `total` = `completed` + `running` + `failed` + `diverged` + `pending`."""

    sweep: str
    state: str
    total: int
    completed: int
    running: int
    failed: int
    diverged: int
    pending: int
    best_loss: float | None
    best_run: str | None
    segments_total: int
    segments_done: int
    segments_running: int
    segments_shared: int
    """Segments that more than one run of this sweep uses."""
    segments_reused: int
    """Segments that were done before this sweep was submitted."""
    steps_total: int
    """Optimiser steps of all segments of this sweep, each counted once."""
    steps_done: int
    steps_alone: int
    """Steps if every run were trained by itself."""
    eta_seconds: float | None
    """None while nothing was measured, 0 when done."""


@dataclass(frozen=True)
class _Load:
    """The segments of one price, in FLOPs a step (so of one shape and batch)."""

    flops_per_step: float
    steps_left: int
    steps_measured: int
    seconds_measured: float


def progress(session: Session, name: str) -> Progress:
    """How far the sweep of that name is. Raises LedgerError."""
    sweep = sweeps.get(session, name)
    counts = session.execute(
        text("""
            WITH state AS (
                SELECT runs.id, runs.name, runs.loss, max(end_step) AS steps,
                    CASE WHEN runs.state = 'pending' AND bool_or(segments.state = 'running') THEN 'running'
                        ELSE runs.state END AS state
                FROM runs LEFT JOIN run_segments ON run_id = runs.id LEFT JOIN segments ON key = segment_key
                WHERE sweep_id = :sweep GROUP BY runs.id
            )
            SELECT count(*) AS total, coalesce(sum(steps), 0)::bigint AS steps_alone, min(loss) AS best_loss,
                (array_agg(name ORDER BY loss) FILTER (WHERE loss IS NOT NULL))[1] AS best_run,
                count(*) FILTER (WHERE state = 'completed') AS completed,
                count(*) FILTER (WHERE state = 'running') AS running,
                count(*) FILTER (WHERE state = 'failed') AS failed,
                count(*) FILTER (WHERE state = 'diverged') AS diverged,
                count(*) FILTER (WHERE state = 'pending') AS pending
            FROM state
        """),
        {"sweep": sweep.id},
    ).one()
    segments = session.execute(
        text("""
            WITH used AS (
                SELECT segment_key AS key, count(*) AS runs FROM run_segments JOIN runs ON runs.id = run_id
                WHERE sweep_id = :sweep GROUP BY segment_key
            )
            SELECT count(*) AS segments_total,
                count(*) FILTER (WHERE segments.state = 'completed') AS segments_done,
                count(*) FILTER (WHERE segments.state = 'running') AS segments_running,
                count(*) FILTER (WHERE used.runs > 1) AS segments_shared,
                count(*) FILTER (WHERE completed_at < :created) AS segments_reused,
                coalesce(sum(end_step - start_step), 0)::bigint AS steps_total,
                coalesce(sum(CASE segments.state WHEN 'completed' THEN end_step WHEN 'running' THEN attempts.step
                    ELSE coalesce(progress_step, start_step) END - start_step), 0)::bigint AS steps_done
            FROM used JOIN segments USING (key)
            LEFT JOIN attempts ON attempts.segment_key = key AND attempts.state = 'running'
        """),
        {"sweep": sweep.id, "created": sweep.created_at},
    ).one()
    return Progress(
        sweep=sweep.name,
        state=sweep.state.value,
        eta_seconds=_eta(session, sweep.id) if counts.pending + counts.running else 0.0,
        **_plain(counts._mapping),
        **_plain(segments._mapping),
    )


def _plain(mapping: Any) -> dict[str, Any]:
    return dict(mapping)


def _eta(session: Session, sweep_id: int) -> float | None:
    """Seconds until the runs that can still complete have: the work left over the workers busy now."""
    rows = session.execute(
        text("""
            WITH used AS (
                SELECT DISTINCT segment_key AS key, bool_or(runs.state = 'pending') AS wanted
                FROM run_segments JOIN runs ON runs.id = run_id WHERE sweep_id = :sweep GROUP BY segment_key
            ), spent AS (
                SELECT segment_key AS key, sum(step - started_step) AS steps,
                    sum(extract(epoch FROM coalesce(ended_at, heartbeat_at) - started_at)) AS seconds
                FROM attempts WHERE step > started_step GROUP BY segment_key
            ), running AS (
                SELECT segment_key AS key, step FROM attempts WHERE state = 'running'
            )
            SELECT segments.flops / (end_step - start_step) AS flops_per_step,
                sum(CASE WHEN wanted AND segments.state IN ('pending', 'running')
                    THEN end_step - coalesce(running.step, progress_step, start_step) ELSE 0 END)::bigint AS steps_left,
                coalesce(sum(spent.steps), 0)::bigint AS steps_measured,
                coalesce(sum(spent.seconds), 0)::float8 AS seconds_measured
            FROM used JOIN segments USING (key) LEFT JOIN spent USING (key) LEFT JOIN running USING (key)
            GROUP BY 1 ORDER BY 1
        """),
        {"sweep": sweep_id},
    )
    workers = session.scalar(text("SELECT count(*) FROM attempts WHERE state = 'running'")) or 1
    seconds = seconds_left([_Load(*row) for row in rows])
    return None if seconds is None else seconds / workers


def seconds_left(loads: Sequence[_Load]) -> float | None:
    """Worker-seconds of the steps left: each price by its own measured seconds a step, where none were measured by
    those of the nearest measured prices (linear between and beyond them, never below the cheapest). None: none were.
    """
    measured = [
        (load.flops_per_step, load.seconds_measured / load.steps_measured)
        for load in loads
        if load.steps_measured > 0 and load.seconds_measured > 0
    ]
    if not measured:
        return None
    return sum(load.steps_left * _seconds_per_step(load.flops_per_step, measured) for load in loads)


def _seconds_per_step(flops: float, measured: Sequence[tuple[float, float]]) -> float:
    below = [point for point in measured if point[0] <= flops]
    above = [point for point in measured if point[0] > flops]
    if below and below[-1][0] == flops:
        return below[-1][1]
    if below and above:
        (x0, y0), (x1, y1) = below[-1], above[0]
        return y0 + (y1 - y0) * (flops - x0) / (x1 - x0)
    # Beyond what was measured, a step costs at least as much as its nearest neighbour's overhead.
    if below:
        (x0, y0) = below[-1]
        return y0 * max(1.0, flops / x0 / 2)
    return above[0][1]
