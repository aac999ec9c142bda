"""The refit loop: whenever runs complete, fit the sweep's law anew (each group's) and store it as the next version.

Level-triggered: it compares the runs that the ledger has with those that the newest fit saw, so a lost notification,
a restart, or two loops at once change nothing but the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fitter.errors import FitError
from fitter.fitting import fit
from fitter.groups import named
from fitter.identifiability import gate
from ledger import channels, fits, runs, sweeps
from ledger.models import Fit, Sweep

#: Seconds after which all sweeps are looked at although nothing was heard.
POLL_SECONDS = 30.0

#: Share of the time that fitting may take while a sweep runs; its workers need the cores more.
DUTY = 0.2

#: Columns of a run that a fit looks at.
_TABLE = tuple(column for column in runs.COLUMNS if column not in ("state", "name"))

#: (sweep, group) → (digest of runs that could not be fitted, why).
_Unfittable = dict[tuple[str, str], tuple[str, str]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RefitStatus:
    """Where a law stands: a sweep's, or that of one group of its runs."""

    sweep: str
    group: str = ""
    """Which of the sweep's runs it describes (`fitter.groups`); empty: all of them."""
    runs: int
    """Completed runs."""
    identified: bool
    """Whether these runs can identify the law."""
    missing: list[str] = field(default_factory=list)
    """What a law waits for, one sentence each: the runs of the grid that are still to come, and others to add."""
    weak: list[str] = field(default_factory=list)
    """What will be known poorly, one sentence each."""
    version: int | None = None
    """Newest stored version of the law."""
    current: bool = False
    """Whether that version saw all completed runs, under the sweep's present objective."""


class Refitter:
    """Keeps the laws of all sweeps in a ledger up to date."""

    def __init__(self, engine: Engine, *, on_fit: Callable[[str, int], None] | None = None) -> None:
        """`on_fit` is called with sweep and version after each stored fit."""
        self._engine = engine
        self._on_fit = on_fit
        self._unfittable: _Unfittable = {}

    def status(self, sweep: str) -> RefitStatus:
        """Where the laws of that sweep stand together, without fitting. Raises LedgerError for an unknown sweep."""
        with Session(self._engine) as session:
            return _together(*_look(session, sweep, self._unfittable))

    def refit(self, sweep: str) -> RefitStatus:
        """Fit the groups of that sweep whose runs call for it; where its laws stand then. Raises LedgerError."""
        with Session(self._engine) as session:
            looks, done = _look(session, sweep, self._unfittable)
        due = [look for look in looks if look.status.identified and not look.status.current]
        for look in due:
            self._fit(look)
        return self.status(sweep) if due else _together(looks, done)

    def _fit(self, look: _Look) -> None:
        sweep, group, rows, law = look.status.sweep, look.status.group, look.rows, look.law
        try:
            # A search looks at impossible coefficients too; what comes of them is no news to anyone.
            with np.errstate(all="ignore"):
                document = fit(rows, form=law.form, **law.objective).document()
        except Exception as error:
            # The gate let it pass; the fit says better what is wrong. The next run may mend it, and no other law waits.
            foreseen = isinstance(error, FitError)
            log.warning("sweep %s cannot be fitted: %s", _named(sweep, group), error, exc_info=not foreseen)
            why = str(error) if foreseen else f"the fit failed: {type(error).__name__}: {error}"
            self._unfittable[sweep, group] = (look.digest, why)
            return
        with Session(self._engine) as session, session.begin():
            there = session.get_one(Sweep, law.sweep_id, with_for_update=True)
            newest = fits.latest(session, there.id, group)
            # Another loop may have been faster.
            if newest is not None and law.matches(newest, look.digest):
                return
            version = fits.add(
                session,
                there.id,
                group=group,
                form=law.form,
                document=document,
                runs_digest=look.digest,
                runs=len(rows),
            ).version
        log.info("sweep %s: law version %d from %d runs", _named(sweep, group), version, len(rows))
        if self._on_fit is not None:
            self._on_fit(sweep, version)

    def refit_all(self) -> None:
        """Fit every sweep whose runs call for it."""
        with Session(self._engine) as session:
            names = list(session.scalars(select(Sweep.name).order_by(Sweep.id.desc())))
        for name in names:
            self.refit(name)

    def run(self, stopping: threading.Event) -> None:
        """Refit as runs complete, until told to stop; then once more, so that the last runs are in."""
        listener = channels.Listener(self._engine, channels.RUNS)
        due: set[str] | None = None  # None: look at all
        not_before = last_look = time.monotonic()
        try:
            while True:
                last = stopping.is_set()
                now = time.monotonic()
                try:
                    if due is None or last or now - last_look > POLL_SECONDS:
                        self.refit_all()
                        due, last_look = set(), time.monotonic()
                    elif due and now >= not_before:
                        for name in sorted(due):
                            self.refit(name)
                        due = set()
                        spent = time.monotonic() - now
                        not_before = time.monotonic() + spent * (1 - DUTY) / DUTY
                    if last:
                        return
                    due |= {payload for _, payload in listener.wait(0.5)}
                except (DBAPIError, psycopg.OperationalError) as error:
                    log.warning("the ledger does not answer: %s", getattr(error, "orig", error))
                    if last:
                        return
                    due = None
                    stopping.wait(2.0)
        finally:
            listener.close()


def standing(session: Session, sweep: str, group: str | None = None) -> RefitStatus:
    """Where the law of a sweep's group stands, or those of all its groups together, without fitting.

    Raises LedgerError for an unknown sweep.
    """
    looks, completed = _look(session, sweep, {})
    return _together([look for look in looks if look.status.group == group] or looks, completed)


def _look(session: Session, name: str, unfittable: _Unfittable) -> tuple[list[_Look], int]:
    """How each group of the sweep stands, and how many of its runs are completed."""
    sweep = sweeps.get(session, name)
    law = _Law.of(sweep)
    table = runs.table(session, name)
    # By all runs, not only those that are done: a group keeps its name while the sweep goes on.
    looks = [
        _look_at(
            session,
            law,
            name,
            group,
            [table[place] for place in places],
            unfittable,
            cancelled=sweep.state == "cancelled",
        )
        for group, places in (named(table) or {"": []}).items()
    ]
    return looks, sum(row["state"] == "completed" for row in table)


def _look_at(
    session: Session,
    law: _Law,
    sweep: str,
    group: str,
    table: list[dict[str, Any]],
    unfittable: _Unfittable,
    *,
    cancelled: bool,
) -> _Look:
    done = [row for row in table if row["state"] == "completed"]
    coming = [] if cancelled else [row for row in table if row["state"] in ("pending", "running")]
    rows = [{column: row[column] for column in _TABLE} for row in done]
    if any(row.get("unique_data") for row in done):
        # Only runs from elsewhere say it; where it is not said, no example was seen twice.
        rows = [
            {**row, "unique_data": whole.get("unique_data") or row["data"]}
            for row, whole in zip(rows, done, strict=True)
        ]
    newest = fits.latest(session, law.sweep_id, group)
    digest = runs.digest(rows)
    verdict, missing = None, ["no run has completed yet"]
    if rows:
        try:
            verdict = gate(rows, law.form)
            missing = list(verdict.missing)
        except FitError as error:
            missing = [str(error)]
    identified = verdict is not None and verdict.identified
    if coming and not identified:
        missing = _awaited(done, coming, law.form)
    tried, trouble = unfittable.get((sweep, group), ("", ""))
    if tried == digest:
        identified, missing = False, [trouble]
    status = RefitStatus(
        sweep=sweep,
        group=group,
        runs=len(rows),
        identified=identified,
        missing=missing,
        weak=[] if verdict is None else list(verdict.weak),
        version=None if newest is None else newest.version,
        current=newest is not None and law.matches(newest, digest),
    )
    return _Look(status, rows, digest, law)


def _awaited(done: list[dict[str, Any]], coming: list[dict[str, Any]], form: str) -> list[str]:
    """What a law waits for whose sweep goes on: the runs that are still to come, and what they will not give either."""
    columns = ("sparsity", "nonzero_params", "data")
    # Whether runs identify a law does not depend on what their losses will be.
    grid = [{**{column: row[column] for column in columns}, "loss": 1.0} for row in (*done, *coming)]
    said = f"{len(coming)} of {len(done) + len(coming)} runs are still to come"
    try:
        lacking = gate(grid, form).missing
    except FitError as error:
        lacking = [str(error)]
    if not lacking:
        return [f"{said}; the law comes as soon as enough of them are done, and needs no others"]
    return [f"{said}, and the law needs others too", *lacking]


def _together(looks: Sequence[_Look], completed: int) -> RefitStatus:
    """The laws of a sweep's groups as one: what is missing or weak is told with its group."""
    statuses = [look.status for look in looks]
    if len(statuses) == 1:
        return statuses[0]
    versions = [status.version for status in statuses if status.version is not None]
    return RefitStatus(
        sweep=statuses[0].sweep,
        runs=completed,
        identified=any(status.identified for status in statuses),
        missing=[f"{status.group}: {line}" for status in statuses for line in status.missing],
        weak=[f"{status.group}: {line}" for status in statuses for line in status.weak],
        version=max(versions, default=None),
        current=all(status.current or not status.identified for status in statuses),
    )


def _named(sweep: str, group: str) -> str:
    return f"{sweep}, {group}" if group else sweep


@dataclass(frozen=True)
class _Look:
    """What a refit goes by: where a law stands, the runs that it is to describe, and how it is fitted."""

    status: RefitStatus
    rows: list[dict[str, Any]]
    digest: str
    law: _Law


@dataclass(frozen=True)
class _Law:
    """What a sweep's spec says about its law."""

    sweep_id: int
    form: str
    objective: dict[str, Any]

    @classmethod
    def of(cls, sweep: Sweep) -> _Law:
        spec: Mapping[str, Any] = sweep.spec.get("law") or {}
        objective = dict(spec.get("objective") or {})
        if "level" in spec:
            objective["level"] = spec["level"]
        return cls(sweep.id, str(spec.get("form", "sparsity")), objective)

    def matches(self, stored: Fit, digest: str) -> bool:
        """Whether a stored fit is the one that these runs and this objective call for."""
        used = stored.document.get("settings", {})
        return (
            stored.runs_digest == digest
            and stored.form == self.form
            and all(used.get(name, value) == value for name, value in self.objective.items())
        )
