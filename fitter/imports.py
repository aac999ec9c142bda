"""A table of finished runs from elsewhere, into the ledger: for people who train with their own code.

What the table must have is what a fit needs; whatever else it has is kept with the run. Every problem is told at once,
with its rows, and nothing is stored then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitter.errors import SettingError, TableError
from fitter.forms import get_form
from fitter.numbers import short
from fitter.refit import Refitter
from fitter.table import REQUIRED, check, columns
from ledger import imports

MOST_ROWS = 20_000
MOST_COLUMNS = 64
LONGEST_TEXT = 1000
#: Beyond these no model was ever meant; they keep every answer finite.
LARGEST = {"nonzero_params": 1e18, "data": 1e24, "loss": 1e6, "unique_data": 1e24}
WHOLE = ("seed", "steps")
#: Columns of an export that say nothing about the run itself.
DROPPED = ("position", "state", "reason", "completed_at", "name", "loss", "imported", "mlflow", "tip_key")
SWEEP_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_./ -]{0,59}")
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class ImportedTable:
    """What became of a table: the sweep it is in now, and where its law stands."""

    sweep: str
    created: bool
    added: int
    unchanged: int
    law_version: int | None
    """Newest version of the sweep's law."""
    missing: list[str]
    """What the runs lack for a law, one sentence each."""


def import_table(
    engine: Engine, sweep: str, table: Any, *, law: Mapping[str, Any] | None = None
) -> ImportedTable:
    """Store the runs of a table in a sweep, new or not, and fit its law.

    Args:
        engine: an open ledger.
        sweep: its name.
        table: anything that `fitter.fit` takes. Needed: sparsity, nonzero_params, data, loss. Known: family, pattern,
            method, seed, steps, unique_data, name, completed_at, seconds (of training). Others are kept as they are.
        law: `form`, `objective` and `level` of a new sweep's law, as in a spec.

    Raises:
        TableError: all that is wrong with the table, rows named, contradictions with runs of the sweep included.
        SettingError: a name that no sweep can have, or an unknown form.
        SweepExists: `law` is not that of the sweep.
    """
    if not SWEEP_NAME.fullmatch(sweep):
        raise SettingError(
            f"'{sweep[:80]}' cannot name a sweep: 1 to 63 lower-case letters, digits, dots, dashes and underscores"
        )
    get_form(str((law or {}).get("form", "sparsity")))
    rows = list(_rows(table))
    with Session(engine) as session, session.begin():
        try:
            done = imports.add(session, sweep, rows, law=law)
        except imports.RunsDisagree as error:
            raise TableError([f"row {row}: {message}" for row, message in error.problems]) from error
    status = Refitter(engine).refit(sweep)
    return ImportedTable(
        sweep=sweep,
        created=done.created,
        added=done.added,
        unchanged=done.unchanged,
        law_version=status.version,
        missing=status.missing,
    )


def law_settings(
    form: str | None, residual: str | None, huber_delta: float | None, level: float | None
) -> dict[str, Any] | None:
    """The `law` of a spec; None where nothing is given."""
    objective = {
        key: value
        for key, value in (("residual", residual), ("huber_delta", huber_delta))
        if value is not None
    }
    law: dict[str, Any] = {"form": form, "level": level, "objective": objective or None}
    return {key: value for key, value in law.items() if value is not None} or None


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    """The runs of a table as the ledger takes them. Raises TableError with every problem."""
    found = columns(table)
    size = len(next(iter(found.values()), ()))
    problems: list[str] = []
    if size > MOST_ROWS:
        raise TableError([f"the table has {size:,} rows: at most {MOST_ROWS:,} are taken at once"])
    if len(found) > MOST_COLUMNS:
        raise TableError([f"the table has {len(found)} columns: at most {MOST_COLUMNS} are kept"])
    problems += [
        f"column '{name[:80]}' cannot be kept: a name has up to 60 letters, digits and _ . / - signs"
        for name in found
        if not _COLUMN.fullmatch(name)
    ]
    # State first: of a table that was exported whole, the runs without a loss are those that have not finished.
    states = found.get("state")
    if states is not None:
        unfinished = [i for i, state in enumerate(states, 1) if _text(state) not in ("completed", None)]
        if unfinished:
            problems.append(f"{_named(unfinished)}: state is not 'completed'; import finished runs only")
    if problems:
        raise TableError(problems)
    runs = check(found)
    for name, largest in LARGEST.items():
        values = getattr(runs, name)
        far = (np.flatnonzero(values > largest) + 1).tolist()
        if far:
            problems.append(f"{_named(far)}: {name} is above {largest:g}; is it in the right unit?")
    kept: dict[str, list[Any]] = {}
    for name, column in found.items():
        if name in (*REQUIRED, *DROPPED):
            continue
        kept[name], wrong = _values(column, whole=name in WHOLE)
        if wrong:
            what = "a whole number from 0 on" if name in WHOLE else "a number, text or a truth value"
            problems.append(f"{_named(wrong)}: {name} is not {what}")
    names, wrong = _values(found["name"], text=True) if "name" in found else ([None] * size, [])
    if wrong:
        problems.append(f"{_named(wrong)}: name is not text of up to {LONGEST_TEXT} characters")
    times, wrong = _times(found["completed_at"]) if "completed_at" in found else ([None] * size, [])
    if wrong:
        problems.append(f"{_named(wrong)}: completed_at is not a time, such as 2026-01-31T12:00:00Z")
    if problems:
        raise TableError(problems)
    for i in range(size):
        cell = {name: float(getattr(runs, name)[i]) for name in ("sparsity", "nonzero_params", "data")}
        cell |= {name: values[i] for name, values in kept.items() if values[i] is not None}
        yield {
            "name": names[i] or _name(cell),
            "cell": cell,
            "loss": float(runs.loss[i]),
            "completed_at": times[i],
        }


def _values(column: Any, *, whole: bool = False, text: bool = False) -> tuple[list[Any], list[int]]:
    """The values of a column as JSON can hold them, missing ones as None; and the rows (from 1) that it cannot."""
    values: list[Any] = []
    wrong: list[int] = []
    for row, given in enumerate(column, 1):
        value = given.item() if isinstance(given, np.generic) else given
        if isinstance(value, datetime):
            value = value.isoformat()
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            value = None
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT or not _storable(value) or whole:
                wrong.append(row)
        elif not isinstance(value, bool | int | float) or not math.isfinite(value):
            wrong.append(row)
        elif text:
            value = f"{value:g}"
        elif whole and (isinstance(value, bool) or value != int(value) or not 0 <= value < 2**53):
            wrong.append(row)
        elif whole:
            value = int(value)
        values.append(value)
    return values, wrong


def _times(column: Any) -> tuple[list[datetime | None], list[int]]:
    times: list[datetime | None] = []
    wrong: list[int] = []
    for row, given in enumerate(column, 1):
        time: datetime | None = None
        if isinstance(given, datetime):
            time = given
        elif _text(given) is not None:
            try:
                time = datetime.fromisoformat(str(given))
            except ValueError:
                wrong.append(row)
        times.append(time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time)
    return times, wrong


def _text(value: Any) -> str | None:
    """A value as text; None where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)


def _storable(text: str) -> bool:
    """Whether Postgres takes it: UTF-8 without the character zero."""
    try:
        return "\0" not in text and bool(text.encode())
    except UnicodeEncodeError:
        return False


def _name(cell: Mapping[str, Any]) -> str:
    """N=5.3M S=75% D=16B gmp: as the planner names its runs."""
    parts = [
        f"N={short(cell['nonzero_params'])}",
        f"S={100 * cell['sparsity']:g}%",
        f"D={short(cell['data'])}",
    ]
    if cell["sparsity"]:
        named = (cell.get("method"), cell.get("pattern"))
        parts += [str(name) for name in named if name not in (None, "unstructured")]
    else:
        parts.append("dense")
    parts += [f"seed={cell['seed']}"] if cell.get("seed") else []
    return " ".join(parts)


def _named(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:_SHOWN]))
    more = len(rows) - _SHOWN
    return f"row{'s' if len(rows) > 1 else ''} {shown}" + (f" and {more} more" if more > 0 else "")
