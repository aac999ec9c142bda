"""How far a sweep is, and when it will be done: the ledger's counts made into one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, RowMapping
from sqlalchemy.orm import Session

from fitter.service import queries
from fitter.service.schemas import Progress, RunCounts, SegmentCounts, SweepSummary, Working
from ledger.models import SweepState
from ledger.progress import progress as ledger_progress

LEAST_SECONDS = 1.0
"""Seconds of training before a speed is worth stating."""
STALE_SECONDS = 120.0
"""Age of a heartbeat beyond which an attempt does not count as being trained."""

Health = Literal["done", "running", "waiting", "paused", "cancelled", "attention"]


def summaries(connection: Connection, sweeps: Sequence[queries.SweepRow]) -> list[SweepSummary]:
    """The lines of a list of sweeps: four statements, however many sweeps there are."""
    ids = [row.id for row in sweeps]
    counts = queries.run_counts(connection, ids)
    losses = queries.best_losses(connection, ids)
    versions = queries.law_versions(connection, ids)
    return [
        SweepSummary(
            name=row.name,
            state=row.state,
            created_at=row.created_at,
            finished_at=row.finished_at,
            runs=RunCounts(total=sum(counts[row.id].values()), **counts[row.id]),
            best_loss=losses.get(row.id),
            law_version=versions.get(row.id),
        )
        for row in sweeps
    ]


def progress(session: Session, sweep: queries.SweepRow) -> Progress:
    """How far a sweep is."""
    far = ledger_progress(session, sweep.name)
    rows = queries.working(session.connection(), sweep.id)
    runs = RunCounts(
        total=far.total,
        pending=far.pending,
        running=far.running,
        completed=far.completed,
        failed=far.failed,
        diverged=far.diverged,
    )
    speeds = [speed for row in rows if (speed := _steps_per_second(row)) is not None]
    return Progress(
        state=sweep.state,
        health=_health(sweep.state, runs, rows),
        runs=runs,
        segments=SegmentCounts(
            total=far.segments_total,
            completed=far.segments_done,
            running=far.segments_running,
            shared=far.segments_shared,
            reused=far.segments_reused,
            steps=far.steps_total,
            steps_done=far.steps_done,
            steps_alone=far.steps_alone,
        ),
        working=[_working(row) for row in rows],
        steps_per_second=sum(speeds) if speeds else None,
        seconds_left=far.eta_seconds if sweep.state is SweepState.active else None,
        best_loss=far.best_loss,
        best_run=far.best_run,
        law_version=queries.law_versions(session.connection(), [sweep.id]).get(sweep.id),
    )


def _working(row: RowMapping) -> Working:
    return Working(
        segment_key=row["segment_key"],
        worker=row["worker"],
        step=min(max(row["step"], row["start_step"]), row["end_step"]),
        start_step=row["start_step"],
        end_step=row["end_step"],
        loss=row["loss"],
        heartbeat_age=float(row["heartbeat_age"]),
        runs=row["runs"],
    )


def _steps_per_second(row: RowMapping) -> float | None:
    steps, seconds = row["step"] - row["started_step"], float(row["seconds"])
    return steps / seconds if seconds > LEAST_SECONDS and steps > 0 else None


def _health(state: SweepState, runs: RunCounts, working: Sequence[RowMapping]) -> Health:
    if state is SweepState.paused:
        return "paused"
    if state is SweepState.cancelled:
        return "cancelled"
    if runs.failed + runs.diverged:
        return "attention"
    if state is SweepState.completed:
        return "done"
    return "running" if any(row["heartbeat_age"] < STALE_SECONDS for row in working) else "waiting"
