"""The refit loop: whenever runs complete, fit the sweep's law anew and store it as the next version.

Level-triggered: it compares the runs that the ledger has with those that the newest fit saw, so a lost notification,
a restart, or two loops at once change nothing but the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from fitter.errors import FitError
from fitter.fitting import fit
from fitter.identifiability import gate
from ledger import channels, fits, runs, sweeps
from ledger.models import Fit, Sweep

#: Seconds after which all sweeps are looked at although nothing was heard.
POLL_SECONDS = 30.0

#: Share of the time that fitting may take while a sweep runs; its workers need the cores more.
DUTY = 0.2

#: Columns of a run that a fit looks at.
_TABLE = tuple(column for column in runs.COLUMNS if column not in ("state", "name"))

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RefitStatus:
    """Where a sweep's law stands."""

    sweep: str
    runs: int
    """Completed runs."""
    identified: bool
    """Whether these runs can identify the law."""
    missing: list[str] = field(default_factory=list)
    """What is missing for that, one sentence each, with the runs that would supply it."""
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
        self._unfittable: dict[str, tuple[str, str]] = {}

    def status(self, sweep: str) -> RefitStatus:
        """Where the law of that sweep stands, without fitting. Raises LedgerError for an unknown sweep."""
        with Session(self._engine) as session:
            return self._look(session, sweep)[0]

    def refit(self, sweep: str) -> RefitStatus:
        """Fit that sweep if its runs call for it; where its law stands then. Raises LedgerError."""
        with Session(self._engine) as session:
            status, rows, law = self._look(session, sweep)
        if status.current or not status.identified:
            return status
        digest = runs.digest(rows)
        try:
            # A search looks at impossible coefficients too; what comes of them is no news to anyone.
            with np.errstate(all="ignore"):
                document = fit(rows, form=law.form, **law.objective).document()
        except FitError as error:
            # The gate let it pass; the fit says better what is wrong. The next run may mend it.
            log.warning("sweep %s cannot be fitted: %s", sweep, error)
            self._unfittable[sweep] = (digest, str(error))
            return self.status(sweep)
        with Session(self._engine) as session, session.begin():
            there = session.get_one(Sweep, law.sweep_id, with_for_update=True)
            newest = fits.latest(session, there.id)
            # Another loop may have been faster.
            version = None
            if newest is None or not law.matches(newest, digest):
                version = fits.add(
                    session, there.id, form=law.form, document=document, runs_digest=digest, runs=len(rows)
                ).version
        if version is not None:
            log.info("sweep %s: law version %d from %d runs", sweep, version, len(rows))
            if self._on_fit is not None:
                self._on_fit(sweep, version)
        return self.status(sweep)

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
                except (OperationalError, InterfaceError) as error:
                    log.warning("the ledger does not answer: %s", error.orig)
                    if last:
                        return
                    due = None
                    stopping.wait(2.0)
        finally:
            listener.close()

    def _look(self, session: Session, name: str) -> tuple[RefitStatus, list[dict[str, Any]], _Law]:
        sweep = sweeps.get(session, name)
        law = _Law.of(sweep)
        done = [row for row in runs.table(session, name) if row["state"] == "completed"]
        rows = [{column: row[column] for column in _TABLE} for row in done]
        if any(row.get("unique_data") for row in done):
            # Only runs from elsewhere say it; where it is not said, no example was seen twice.
            rows = [
                {**row, "unique_data": whole.get("unique_data") or row["data"]}
                for row, whole in zip(rows, done, strict=True)
            ]
        newest = fits.latest(session, sweep.id)
        digest = runs.digest(rows)
        verdict, missing = None, ["no run has completed yet"]
        if rows:
            try:
                verdict = gate(rows, law.form)
                missing = list(verdict.missing)
            except FitError as error:
                missing = [str(error)]
        identified = verdict is not None and verdict.identified
        if self._unfittable.get(name, ("", ""))[0] == digest:
            identified, missing = False, [self._unfittable[name][1]]
        status = RefitStatus(
            sweep=name,
            runs=len(rows),
            identified=identified,
            missing=missing,
            weak=[] if verdict is None else list(verdict.weak),
            version=None if newest is None else newest.version,
            current=newest is not None and law.matches(newest, digest),
        )
        return status, rows, law


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
