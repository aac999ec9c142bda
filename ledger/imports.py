"""Runs that were trained elsewhere: a loss and a cell, no segments. The law reads them like any other run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger import channels
from ledger.errors import SweepExists
from ledger.models import Run, SegmentState, Sweep, SweepState

#: What tells one cell from another in a fit: two runs that agree in these must agree in their loss.
IDENTITY = ("sparsity", "nonzero_params", "data", "unique_data", "family", "pattern", "method", "seed")

#: Entry of a cell that says that its run was trained elsewhere.
IMPORTED = "imported"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a table."""

    created: bool
    """Whether the sweep is new."""
    added: int
    unchanged: int
    """Rows that the sweep had already, with the same loss."""


class RunsDisagree(Exception):
    """Rows that contradict runs of the sweep. `problems`: (row number from 1, what is wrong)."""

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"row {row}: {message}" for row, message in problems))


def add(
    session: Session, name: str, rows: Sequence[Mapping[str, Any]], *, law: Mapping[str, Any] | None
) -> Imported:
    """Add finished runs to a sweep, which is made where there is none; all of them or none.

    `rows`: dicts of name, cell, loss, completed_at (None: now). `law`: the spec's `law` of a new sweep; for one that
    exists it must be None or what that sweep has. The same rows again change nothing. Raises RunsDisagree, SweepExists.
    """
    spec = {"name": name, IMPORTED: True, "law": dict(law or {})}
    made = session.execute(
        insert(Sweep)
        .values(
            name=name,
            spec=spec,
            spec_text="",
            spec_digest=hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest(),
            plan={},
            state=SweepState.completed,
            finished_at=func.now(),
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Sweep.id)
    ).scalar()
    sweep = session.scalars(select(Sweep).where(Sweep.name == name).with_for_update()).one()
    if made is None and law is not None and not _same_law(sweep, law):
        raise SweepExists(
            f"the law of sweep {name!r} is fitted with {json.dumps(sweep.spec.get('law') or {})}: import the runs "
            "without law settings, or into another sweep"
        )
    there = {
        identity(run.cell): run
        for run in session.scalars(select(Run).where(Run.sweep_id == sweep.id).order_by(Run.position))
        if run.state not in (SegmentState.failed, SegmentState.diverged)
    }
    problems = list(_contradictions(rows, there))
    if problems:
        raise RunsDisagree(problems)
    new: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        key = identity(row["cell"])
        if key not in there:
            new.setdefault(key, row)
    last = session.scalar(select(func.max(Run.position)).where(Run.sweep_id == sweep.id))
    _insert(session, sweep.id, 0 if last is None else last + 1, list(new.values()))
    if new:
        channels.notify(session, channels.RUNS, name)
    return Imported(created=made is not None, added=len(new), unchanged=len(rows) - len(new))


def identity(cell: Mapping[str, Any]) -> str:
    """A cell as a fit sees it: numbers by their value, however they were written."""
    return json.dumps([_plain(cell.get(column)) for column in IDENTITY])


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _same_law(sweep: Sweep, law: Mapping[str, Any]) -> bool:
    has = sweep.spec.get("law") or {}
    return all(has.get(name, value) == value for name, value in law.items())


def _contradictions(rows: Sequence[Mapping[str, Any]], there: Mapping[str, Run]) -> Iterator[tuple[int, str]]:
    for number, row in enumerate(rows, 1):
        run = there.get(identity(row["cell"]))
        if run is None:
            continue
        if run.loss is None:
            yield number, f"the sweep trains this cell itself (run {run.name!r}); give the row another seed"
        elif abs(run.loss - row["loss"]) > 1e-9 * abs(run.loss):
            yield (
                number,
                f"loss is {row['loss']:.8g}, and run {run.name!r} of the same cell has {run.loss:.8g}; "
                "give the row a seed of its own, or import it into another sweep",
            )


def _insert(session: Session, sweep_id: int, first: int, rows: Sequence[Mapping[str, Any]]) -> None:
    # One document: twenty thousand rows in a second.
    document = [
        {
            "position": first + index,
            "name": row["name"],
            "cell": {**row["cell"], IMPORTED: True},
            "loss": row["loss"],
            "completed_at": None if row["completed_at"] is None else row["completed_at"].isoformat(),
        }
        for index, row in enumerate(rows)
    ]
    session.execute(
        text("""
            INSERT INTO runs (sweep_id, position, name, cell, state, loss, completed_at, tracked_step, tracked_final)
            SELECT :sweep, position, name, cell, 'completed', loss, coalesce(completed_at, now()), -1, false
            FROM jsonb_to_recordset(CAST(:rows AS jsonb))
                AS row(position bigint, name text, cell jsonb, loss float8, completed_at timestamptz)
        """),
        {"sweep": sweep_id, "rows": json.dumps(document)},
    )
