"""Sweeps: what was asked for. Adding one places its runs on the forest that is already there.

All functions work on the caller's session and leave the commit to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ledger import channels
from ledger.bulk import copy
from ledger.errors import NoSuchSweep, SweepExists
from ledger.forest import place_segments, revive
from ledger.models import Run, SegmentState, Sweep, SweepState

#: Failed attempts a segment may have when the spec's `execution.attempts` does not say.
DEFAULT_ATTEMPTS = 3


#: Runs added at once that change what Postgres should know of its tables: left to find out by itself, a minute later,
#: it looks through all of a sweep's runs whenever a segment is claimed.
MANY = 100


class Place(NamedTuple):
    """Where a sweep runs: its pool, the kind of device there, and how many of them train a run."""

    pool: str
    device: str
    devices: int = 1

    @property
    def kind(self) -> tuple[str, str]:
        """What it shares with places whose runs take other numbers of the same devices."""
        return self.pool, self.device


@dataclass(frozen=True)
class Placed:
    """The active sweeps of one place."""

    sweep_ids: tuple[int, ...]
    max_concurrent: int | None
    """Runs at a time that they allow together; None: one of them sets no limit."""


def add(
    session: Session,
    *,
    name: str,
    spec: Mapping[str, Any],
    spec_text: str,
    spec_digest: str,
    plan: Mapping[str, Any],
    segments: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> Sweep:
    """Store a sweep with its runs. Runs whose tip is done already end here and now, with its loss.

    `segments`: dicts of key, parent_key, start_step, end_step, program (a mapping or, for many, its JSON text),
    data_path, flops, priority; `runs`: dicts of name, cell, tip_key, path (segment keys, trunk first), in the order of
    the grid. Raises SweepExists.
    """
    if session.scalar(select(Sweep.id).where(Sweep.name == name)) is not None:
        raise SweepExists(f"there is a sweep named {name!r} already")
    sweep = Sweep(
        name=name,
        spec=dict(spec),
        spec_text=spec_text,
        spec_digest=spec_digest,
        plan=dict(plan),
        priority=_priority(spec),
    )
    session.add(sweep)
    session.flush()
    _place(session, sweep, segments, runs, first_position=0)
    return sweep


def extend(
    session: Session,
    name: str,
    *,
    spec: Mapping[str, Any],
    spec_text: str,
    spec_digest: str,
    plan: Mapping[str, Any],
    segments: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> int:
    """Add the runs that the sweep lacks (by tip and the size that was asked for: shapes are rounded, so that two sizes
    may come to one program), and take over the new spec; how many were added.

    Runs that the new grid lacks stay. A sweep that was completed is active again when there is something to run.
    """
    sweep = get(session, name)
    asked_for = Run.cell["target_nonzero_params"].as_float()
    there = {
        tuple(row) for row in session.execute(select(Run.tip_key, asked_for).where(Run.sweep_id == sweep.id))
    }
    new = [run for run in runs if (run["tip_key"], run["cell"].get("target_nonzero_params")) not in there]
    sweep.spec, sweep.spec_text, sweep.spec_digest = dict(spec), spec_text, spec_digest
    sweep.plan, sweep.priority = dict(plan), _priority(spec)
    if new and sweep.state == SweepState.completed:
        sweep.state, sweep.finished_at = SweepState.active, None
    last = session.scalar(select(func.max(Run.position)).where(Run.sweep_id == sweep.id))
    needed = {key for run in new for key in run["path"]}
    _place(
        session,
        sweep,
        [segment for segment in segments if segment["key"] in needed],
        new,
        first_position=0 if last is None else last + 1,
    )
    return len(new)


def get(session: Session, name: str) -> Sweep:
    """The sweep of that name. Raises NoSuchSweep, naming the sweeps there are."""
    sweep = session.scalar(select(Sweep).where(Sweep.name == name))
    if sweep is None:
        names = session.scalars(select(Sweep.name).order_by(Sweep.id.desc()).limit(10)).all()
        there = f"there are: {', '.join(names)}" if names else "there are none yet"
        raise NoSuchSweep(f"there is no sweep named {name!r}; {there}")
    return sweep


def find(session: Session, name: str) -> Sweep | None:
    """The sweep of that name, if there is one."""
    return session.scalar(select(Sweep).where(Sweep.name == name))


def list_(session: Session) -> list[Sweep]:
    """All sweeps, newest first."""
    return list(session.scalars(select(Sweep).order_by(Sweep.id.desc())))


def by_place(session: Session, sweep_ids: Sequence[int] | None = None) -> dict[Place, Placed]:
    """The active sweeps, or those of them among `sweep_ids`, by where their specs say that they run."""
    rows = session.execute(
        text("""
            SELECT coalesce(spec #>> '{execution,pool}', 'local') AS pool,
                coalesce(spec #>> '{execution,device}', 'cpu') AS device,
                coalesce((spec #>> '{execution,devices_per_run}')::int, 1) AS devices,
                array_agg(id ORDER BY id) AS ids,
                CASE WHEN bool_and((spec #>> '{execution,max_concurrent}') IS NOT NULL)
                    THEN sum((spec #>> '{execution,max_concurrent}')::bigint) END AS max_concurrent
            FROM sweeps
            WHERE state = 'active' AND (CAST(:sweeps AS bigint[]) IS NULL OR id = ANY(:sweeps))
            GROUP BY 1, 2, 3 ORDER BY min(id)
        """),
        {"sweeps": None if sweep_ids is None else list(sweep_ids)},
    )
    return {
        Place(row.pool, row.device, row.devices): Placed(
            tuple(row.ids), None if row.max_concurrent is None else int(row.max_concurrent)
        )
        for row in rows
    }


def numerics(session: Session, sweep_id: int) -> dict[str, Any]:
    """`Program.numerics` of a sweep's newest run; empty where it has none that is trained."""
    found = session.scalar(
        text("""
            SELECT program -> 'numerics' FROM runs JOIN segments ON key = tip_key
            WHERE sweep_id = :sweep ORDER BY runs.id DESC LIMIT 1
        """),
        {"sweep": sweep_id},
    )
    return dict(found or {})


def pause(session: Session, name: str) -> Sweep:
    """Let running attempts stop at a checkpoint and hand out no more. Does nothing to a sweep that is over."""
    return _change(session, name, {SweepState.active: SweepState.paused})


def resume(session: Session, name: str) -> Sweep:
    """Go on with a paused or cancelled sweep."""
    return _change(
        session, name, {SweepState.paused: SweepState.active, SweepState.cancelled: SweepState.active}
    )


def cancel(session: Session, name: str) -> Sweep:
    """As `pause`, and the sweep counts as over. What is done stays; `resume` takes it up again."""
    return _change(
        session, name, {SweepState.active: SweepState.cancelled, SweepState.paused: SweepState.cancelled}
    )


def retry(session: Session, name: str) -> int:
    """Give the failed segments of a sweep a new budget and make their runs pending; how many runs.

    Where a segment failed for a checkpoint, its parent's is given up, and the parent trained again, to the same bits:
    without it, it would only fail again. Diverged runs stay: the same program diverges again.
    """
    sweep = get(session, name)
    attempts = int(sweep.spec.get("execution", {}).get("attempts", DEFAULT_ATTEMPTS))
    session.execute(
        text("""
            UPDATE segments SET checkpoint = NULL WHERE state = 'completed' AND key IN (
                SELECT parent_key FROM segments failed WHERE failed.state = 'failed' AND failed.key IN (
                    SELECT segment_key FROM run_segments JOIN runs ON runs.id = run_id WHERE sweep_id = :sweep)
                AND (SELECT kind FROM attempts WHERE segment_key = failed.key ORDER BY id DESC LIMIT 1) = 'checkpoint')
        """),
        {"sweep": sweep.id},
    )
    session.execute(
        text("""
            UPDATE segments SET state = 'pending', attempts_left = :attempts, retry_at = NULL
            WHERE state = 'failed' AND key IN (
                SELECT segment_key FROM run_segments JOIN runs ON runs.id = run_id WHERE sweep_id = :sweep)
        """),
        {"attempts": attempts, "sweep": sweep.id},
    )
    retried = session.execute(
        text("""
            UPDATE runs SET state = 'pending', reason = NULL, completed_at = NULL
            WHERE sweep_id = :sweep AND state = 'failed' RETURNING id
        """),
        {"sweep": sweep.id},
    ).all()
    if retried and sweep.state == SweepState.completed:
        sweep.state, sweep.finished_at = SweepState.active, None
    session.flush()
    revive(session)
    channels.notify(session, channels.WORK)
    return len(retried)


def finish_if_over(session: Session, sweep_ids: Sequence[int]) -> None:
    """Mark the sweeps of which every run has ended as completed; an adaptive one only once it chooses no more cells.
    Their rows must be locked by the caller."""
    session.execute(
        text("""
            UPDATE sweeps SET state = 'completed', finished_at = now()
            WHERE id = ANY(:ids) AND state <> 'completed' AND NOT EXISTS (
                SELECT 1 FROM runs WHERE sweep_id = sweeps.id AND state = 'pending')
                AND (plan -> 'adaptive' IS NULL OR plan #>> '{adaptive,stopped}' IS NOT NULL)
        """),
        {"ids": list(sweep_ids)},
    )


def _priority(spec: Mapping[str, Any]) -> int:
    return int(spec.get("execution", {}).get("priority", 0))


def _change(session: Session, name: str, changes: Mapping[SweepState, SweepState]) -> Sweep:
    sweep = get(session, name)
    session.refresh(sweep, with_for_update=True)
    if sweep.state in changes:
        sweep.state = changes[sweep.state]
        sweep.finished_at = None
        session.flush()
        revive(session)
        channels.notify(session, channels.WORK)
    return sweep


def _place(
    session: Session,
    sweep: Sweep,
    segments: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    *,
    first_position: int,
) -> None:
    attempts = int(sweep.spec.get("execution", {}).get("attempts", DEFAULT_ATTEMPTS))
    paths = place_segments(session, segments, [run["tip_key"] for run in runs], attempts=attempts)
    copy(
        session,
        "runs",
        ("sweep_id", "position", "name", "cell", "tip_key", "state", "tracked_step", "tracked_final"),
        (
            (
                sweep.id,
                position,
                run["name"],
                run["cell"],
                run["tip_key"],
                SegmentState.pending.value,
                -1,
                False,
            )
            for position, run in enumerate(runs, first_position)
        ),
    )
    ids = session.scalars(
        select(Run.id).where(Run.sweep_id == sweep.id, Run.position >= first_position).order_by(Run.position)
    )
    copy(
        session,
        "run_segments",
        ("run_id", "position", "segment_key"),
        (
            (run_id, position, key)
            for run_id, run in zip(ids.all(), runs, strict=True)
            for position, key in enumerate(paths[run["tip_key"]])
        ),
    )
    if len(runs) >= MANY:
        session.execute(text("ANALYZE segments, runs, run_segments"))
    session.execute(
        text("""
            UPDATE runs SET state = 'completed', result = segments.result, completed_at = now(),
                loss = (segments.result ->> 'loss')::float8
            FROM segments
            WHERE sweep_id = :sweep AND runs.state = 'pending'
                AND segments.key = tip_key AND segments.state = 'completed'
        """),
        {"sweep": sweep.id},
    )
    session.execute(
        text("""
            UPDATE runs SET state = 'diverged', completed_at = now(),
                reason = 'segment ' || left(segments.key, 12) || ' diverged in an earlier sweep'
            FROM segments JOIN run_segments ON segment_key = segments.key
            WHERE sweep_id = :sweep AND runs.state = 'pending'
                AND run_segments.run_id = runs.id AND segments.state = 'diverged'
                -- Asked once: as a rule there are none, and no path is looked at.
                AND EXISTS (SELECT 1 FROM segments WHERE state = 'diverged')
        """),
        {"sweep": sweep.id},
    )
    revive(session)
    finish_if_over(session, [sweep.id])
    session.expire_all()
    channels.notify(session, channels.WORK)
    channels.notify(session, channels.RUNS, sweep.name)
