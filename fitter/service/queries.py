"""Reads of the ledger that answer a request: one or two statements each, no objects kept.

The ledger's own query functions serve the controller and the fitter, one sweep or one attempt at a time. What a
page needs in one go (counts of all sweeps, a page of runs with the reason of each failure) is here.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    bindparam,
    case,
    func,
    literal,
    select,
    true,
    type_coerce,
)

from fitter.groups import COLUMNS, named
from ledger.models import (
    Attempt,
    AttemptState,
    Fit,
    Run,
    RunSegment,
    Segment,
    SegmentState,
    Sweep,
    SweepState,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Names that a sweep can have; anything else is unknown without asking the ledger."""


@dataclass(frozen=True)
class SweepRow:
    """What the service needs to know of a sweep to answer about it."""

    id: int
    name: str
    state: SweepState
    created_at: datetime
    finished_at: datetime | None
    tracking_id: str | None


_SWEEP = (Sweep.id, Sweep.name, Sweep.state, Sweep.created_at, Sweep.finished_at, Sweep.tracking_id)


def sweep(connection: Connection, name: str) -> SweepRow | None:
    """The sweep of that name."""
    row = connection.execute(select(*_SWEEP).where(Sweep.name == name)).one_or_none()
    return None if row is None else SweepRow(*row)


def similar_names(connection: Connection, name: str) -> list[str]:
    """Names of sweeps that look like `name`, the most similar first."""
    names = connection.scalars(select(Sweep.name).order_by(Sweep.id.desc()).limit(1000)).all()
    return difflib.get_close_matches(name, names, n=3)


def sweep_text(connection: Connection, sweep_id: int) -> RowMapping:
    """spec, spec_text and plan of a sweep."""
    statement = select(Sweep.spec, Sweep.spec_text, Sweep.plan).where(Sweep.id == sweep_id)
    return connection.execute(statement).mappings().one()


def sweeps_page(connection: Connection, *, before: int | None, limit: int) -> list[SweepRow]:
    """Up to `limit` sweeps, newest first, with ids below `before`."""
    statement = select(*_SWEEP).order_by(Sweep.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Sweep.id < before)
    return [SweepRow(*row) for row in connection.execute(statement)]


#: A run whose tip is pending is being trained when a worker holds a segment on its path.
_is_trained = (
    select(literal(1))
    .select_from(RunSegment)
    .join(Segment, Segment.key == RunSegment.segment_key)
    .where(RunSegment.run_id == Run.id, Segment.state == SegmentState.running)
    .correlate(Run)
    .exists()
)
_run_state = type_coerce(
    case(((Run.state == SegmentState.pending) & _is_trained, SegmentState.running.value), else_=Run.state),
    Run.state.type,
).label("state")


def run_counts(connection: Connection, sweep_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """For each sweep: runs by state."""
    counts: dict[int, dict[str, int]] = {sweep_id: {} for sweep_id in sweep_ids}
    by_state = (
        select(Run.sweep_id, Run.state, func.count())
        .where(Run.sweep_id.in_(sweep_ids))
        .group_by(Run.sweep_id, Run.state)
    )
    for sweep_id, state, count in connection.execute(by_state):
        counts[sweep_id][SegmentState(state).value] = count
    # Few segments run at a time, so this starts from them; asking every pending run would not stay cheap.
    trained = (
        select(Run.sweep_id, func.count(Run.id.distinct()))
        .join(RunSegment, RunSegment.run_id == Run.id)
        .join(Segment, Segment.key == RunSegment.segment_key)
        .where(
            Segment.state == SegmentState.running,
            Run.state == SegmentState.pending,
            Run.sweep_id.in_(sweep_ids),
        )
        .group_by(Run.sweep_id)
    )
    for sweep_id, count in connection.execute(trained):
        counts[sweep_id]["pending"] -= count
        counts[sweep_id]["running"] = counts[sweep_id].get("running", 0) + count
    return counts


def best_losses(connection: Connection, sweep_ids: Sequence[int]) -> dict[int, float]:
    """For each sweep with a completed run: the lowest loss."""
    statement = (
        select(Run.sweep_id, func.min(Run.loss))
        .where(Run.sweep_id.in_(sweep_ids), Run.state == SegmentState.completed, Run.loss.is_not(None))
        .group_by(Run.sweep_id)
    )
    return {row[0]: row[1] for row in connection.execute(statement) if row[1] is not None}


def law_versions(connection: Connection, sweep_ids: Sequence[int]) -> dict[int, int]:
    """For each sweep with a law: its newest version."""
    statement = (
        select(Fit.sweep_id, func.max(Fit.version)).where(Fit.sweep_id.in_(sweep_ids)).group_by(Fit.sweep_id)
    )
    return {row[0]: row[1] for row in connection.execute(statement) if row[1] is not None}


def _segments_of(sweep_id: int) -> Any:
    """Keys of the segments of a sweep, each once, with the number of runs that need it."""
    return (
        select(RunSegment.segment_key.label("key"), func.count().label("runs"))
        .join(Run, Run.id == RunSegment.run_id)
        .where(Run.sweep_id == sweep_id)
        .group_by(RunSegment.segment_key)
        .subquery()
    )


def working(connection: Connection, sweep_id: int) -> list[RowMapping]:
    """The running attempts on segments of a sweep, oldest first."""
    keys = _segments_of(sweep_id)
    statement = (
        select(
            Attempt.segment_key,
            Attempt.worker,
            Attempt.started_step,
            Attempt.step,
            Attempt.loss,
            Segment.start_step,
            Segment.end_step,
            func.extract("epoch", Attempt.heartbeat_at - Attempt.started_at).label("seconds"),
            func.extract("epoch", func.now() - Attempt.heartbeat_at).label("heartbeat_age"),
            keys.c.runs,
        )
        .join(Segment, Segment.key == Attempt.segment_key)
        .join(keys, keys.c.key == Segment.key)
        .where(Attempt.state == AttemptState.running)
        .order_by(Attempt.id)
        .limit(200)
    )
    return list(connection.execute(statement).mappings())


_RUN = (
    Run.position,
    Run.name,
    _run_state,
    Run.cell,
    Run.loss,
    Run.completed_at,
    Run.tip_key,
    Run.tracking_id,
    Run.reason,
)


def runs_page(
    connection: Connection,
    sweep_id: int,
    *,
    after: int | None = None,
    limit: int | None = None,
    state: SegmentState | None = None,
) -> list[RowMapping]:
    """Runs of a sweep in grid order, with positions above `after`."""
    statement = select(*_RUN).where(Run.sweep_id == sweep_id).order_by(Run.position)
    if after is not None:
        statement = statement.where(Run.position > after)
    if state is not None:
        statement = statement.where(_run_state == state)
    if limit is not None:
        statement = statement.limit(limit)
    return list(connection.execute(statement).mappings())


def steps_of_running(connection: Connection, sweep_id: int) -> dict[int, int]:
    """For each run that is being trained, by its position: the step that a worker has reached."""
    statement = (
        select(Run.position, func.max(Attempt.step))
        .join(RunSegment, RunSegment.run_id == Run.id)
        .join(Attempt, Attempt.segment_key == RunSegment.segment_key)
        .where(
            Attempt.state == AttemptState.running,
            Run.sweep_id == sweep_id,
            Run.state == SegmentState.pending,
        )
        .group_by(Run.position)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def last_ended(connection: Connection, sweep_id: int, limit: int) -> list[RowMapping]:
    """The runs of a sweep that ended last, newest first."""
    statement = (
        select(*_RUN)
        .where(Run.sweep_id == sweep_id, Run.completed_at.is_not(None))
        .order_by(Run.completed_at.desc(), Run.position.desc())
        .limit(limit)
    )
    return list(connection.execute(statement).mappings())


def last_fits(connection: Connection, sweep_id: int, limit: int) -> list[RowMapping]:
    """The newest versions of a sweep's law, newest first, without their documents."""
    statement = (
        select(Fit.version, Fit.group.label("group"), Fit.form, Fit.runs, Fit.created_at)
        .where(Fit.sweep_id == sweep_id)
        .order_by(Fit.version.desc())
        .limit(limit)
    )
    return list(connection.execute(statement).mappings())


def forest(connection: Connection, sweep_id: int) -> list[RowMapping]:
    """All segments of a sweep with the positions of the runs that need them, parents before children."""
    paths = (
        select(RunSegment.segment_key.label("key"), func.array_agg(Run.position).label("positions"))
        .join(Run, Run.id == RunSegment.run_id)
        .where(Run.sweep_id == sweep_id)
        .group_by(RunSegment.segment_key)
        .subquery()
    )
    tries = (
        select(
            Attempt.segment_key.label("key"),
            func.count().label("attempts"),
            func.max(Attempt.id).label("newest"),
        )
        .join(paths, paths.c.key == Attempt.segment_key)
        .group_by(Attempt.segment_key)
        .subquery()
    )
    statement = (
        select(
            Segment.key,
            Segment.parent_key,
            Segment.start_step,
            Segment.end_step,
            Segment.state,
            Segment.flops,
            paths.c.positions,
            func.coalesce(tries.c.attempts, 0).label("attempts"),
            Attempt.state.label("attempt_state"),
            Attempt.step,
            Attempt.reason,
        )
        .join(paths, paths.c.key == Segment.key)
        .outerjoin(tries, tries.c.key == Segment.key)
        .outerjoin(Attempt, Attempt.id == tries.c.newest)
        .order_by(Segment.end_step, Segment.start_step, Segment.key)
    )
    return list(connection.execute(statement).mappings())


@dataclass(frozen=True)
class FitKey:
    """Which fit answers, where there is one."""

    sweep_id: int
    fit_id: int | None
    version: int | None
    group: str | None


def fit_key(connection: Connection, name: str, version: int | None, group: str | None) -> FitKey | None:
    """The newest or the given version, of that group or of any; None where the sweep is unknown.

    The cheapest question that tells whether a cached law is still the newest: two index look-ups.
    """
    statement = _fit_key(version is not None, group is not None)
    row = connection.execute(statement, {"name": name, "version": version, "group": group}).one_or_none()
    return None if row is None else FitKey(*row)


@functools.cache
def _fit_key(with_version: bool, with_group: bool) -> Select[Any]:
    # Built once: building it takes as long as asking it, and it is asked at every request for a law.
    newest = (
        select(Fit.id, Fit.version, Fit.group.label("group"))
        .where(Fit.sweep_id == Sweep.id)
        .order_by(Fit.version.desc())
        .limit(1)
    )
    if with_version:
        newest = newest.where(Fit.version == bindparam("version"))
    if with_group:
        newest = newest.where(Fit.group == bindparam("group"))
    one = newest.lateral()
    statement = select(Sweep.id, one.c.id, one.c.version, one.c.group)
    return statement.outerjoin(one, true()).where(Sweep.name == bindparam("name"))


def groups(connection: Connection, sweep_id: int) -> dict[str, frozenset[int]]:
    """Positions of the runs that each law of a sweep describes, by its group's name, in grid order."""
    cell = Run.cell
    statement = (
        select(
            Run.position,
            cell["sparsity"].as_float().label("sparsity"),
            *(cell[column].as_string().label(column) for column in COLUMNS),
        )
        .where(Run.sweep_id == sweep_id)
        .order_by(Run.position)
    )
    rows = [dict(row) for row in connection.execute(statement).mappings()]
    return {
        name: frozenset(rows[place]["position"] for place in places) for name, places in named(rows).items()
    }


def fit(connection: Connection, fit_id: int) -> RowMapping:
    """One fit: id, version, group, document, created_at."""
    columns = (Fit.id, Fit.version, Fit.group.label("group"), Fit.document, Fit.created_at)
    return connection.execute(select(*columns).where(Fit.id == fit_id)).mappings().one()


def fits_page(
    connection: Connection, sweep_id: int, *, group: str | None, before: int | None = None, limit: int
) -> list[RowMapping]:
    """Versions of a sweep's law, of that group or of all, newest first, below version `before`.

    Of the documents only coefficients and intervals: whole ones are some 100 kB each, by their draws.
    """
    columns = (Fit.version, Fit.group.label("group"), Fit.form, Fit.created_at, Fit.runs, Fit.runs_digest)
    parts = (Fit.document[name].label(name) for name in ("coefficients", "intervals"))
    statement = (
        select(*columns, *parts).where(Fit.sweep_id == sweep_id).order_by(Fit.version.desc()).limit(limit)
    )
    if group is not None:
        statement = statement.where(Fit.group == group)
    if before is not None:
        statement = statement.where(Fit.version < before)
    return list(connection.execute(statement).mappings())


def runs_behind(connection: Connection, name: str, group: str) -> list[RowMapping]:
    """The completed runs that the law of a sweep's group describes, in grid order."""
    found = sweep(connection, name)
    if found is None:
        return []
    rows = runs_page(connection, found.id, state=SegmentState.completed)
    members = groups(connection, found.id).get(group, frozenset()) if group else None
    return [
        row for row in rows if row["loss"] is not None and (members is None or row["position"] in members)
    ]


def states(connection: Connection) -> list[tuple[str, str, int]]:
    """(what, state, how many) over the whole ledger, for the metrics."""
    found = []
    for what, column in (("sweeps", Sweep.state), ("runs", Run.state), ("segments", Segment.state)):
        statement = select(column, func.count()).group_by(column)
        found += [(what, str(state.value), count) for state, count in connection.execute(statement)]
    return found
