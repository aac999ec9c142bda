"""A command's facts from this machine's ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import fits, runs, sweeps
from ledger.progress import Progress, progress
from ledger.settings import Settings
from orchestrator.command.facts import Change, no_law_yet

if TYPE_CHECKING:
    from fitter.measurement import MeasuredCosts
    from ledger.models import Fit
    from orchestrator.client import Event
    from orchestrator.submit import Submitted

#: Entries of a sweep's progress that a list of sweeps shows.
LISTED = ("total", "completed", "running", "failed", "diverged", "pending", "best_loss", "eta_seconds")


class LedgerSource:
    """`orchestrator.command.facts.Source` on an open ledger."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings, self._engine = settings, engine

    def sweeps(self) -> list[dict[str, Any]]:
        with Session(self._engine) as session:
            found = [(sweep, asdict(progress(session, sweep.name))) for sweep in sweeps.list_(session)]
            return [
                {
                    "name": sweep.name,
                    "state": sweep.state.value,
                    "created_at": sweep.created_at,
                    **{name: state[name] for name in LISTED},
                }
                for sweep, state in found
            ]

    def progress(self, sweep: str) -> Progress:
        with Session(self._engine) as session:
            return progress(session, sweep)

    def plan(self, sweep: str) -> dict[str, Any]:
        with Session(self._engine) as session:
            return dict(sweeps.get(session, sweep).plan)

    def law_summary(self, sweep: str) -> tuple[dict[str, Any] | None, list[str]]:
        with Session(self._engine) as session:
            fit, missing = self._newest(session, sweep, None)
        if fit is None:
            return None, missing
        about = {"version": fit.version, "runs": fit.runs, "created_at": fit.created_at}
        return about | ({"group": fit.group} if fit.group else {}), []

    def groups(self, sweep: str) -> dict[str, frozenset[int]]:
        from fitter.groups import named

        rows = self.runs(sweep)
        return {
            name: frozenset(rows[place]["position"] for place in places)
            for name, places in named(rows).items()
            if name
        }

    def law(self, sweep: str, group: str | None = None) -> dict[str, Any]:
        with Session(self._engine) as session:
            fit, missing = self._newest(session, sweep, group)
        if fit is None:
            raise no_law_yet(sweep, missing)
        return fits.law_document(
            sweep, document=fit.document, version=fit.version, group=fit.group, created_at=fit.created_at
        )

    def _newest(self, session: Session, sweep: str, group: str | None) -> tuple[Fit | None, list[str]]:
        """The newest fit of that group of a sweep's runs, of the first by default; or what they lack for one."""
        from fitter.groups import chosen
        from fitter.refit import standing

        sweep_id = sweeps.get(session, sweep).id
        fit = fits.latest(session, sweep_id)
        if group or (fit is not None and fit.group):
            group = chosen(group, list(self.groups(sweep)))
            fit = fits.latest(session, sweep_id, group)
        return fit, [] if fit is not None else standing(session, sweep, group).missing

    def mlflow(self, sweep: str) -> str | None:
        from fitter.mlflow_pages import experiment_page
        from orchestrator.command.serve_record import running

        service = running(self._settings)
        with Session(self._engine) as session:
            experiment = sweeps.get(session, sweep).tracking_id
        if service is None or not service.get("mlflow_url") or experiment is None:
            return None
        return experiment_page(service["mlflow_url"], experiment)

    def runs(self, sweep: str) -> list[dict[str, Any]]:
        with Session(self._engine) as session:
            sweeps.get(session, sweep)
            return runs.table(session, sweep)

    def failed_attempts(self, sweep: str) -> list[dict[str, Any]]:
        with Session(self._engine) as session:
            sweeps.get(session, sweep)
            return runs.failed_attempts(session, sweep)

    def costs(self, sweep: str, group: str | None = None) -> MeasuredCosts:
        from fitter.groups import chosen
        from fitter.measurement import of_runs

        groups = self.groups(sweep)
        of = chosen(group, list(groups))
        with Session(self._engine) as session:
            rows = runs.training_seconds(session, sweep)
        return of_runs([row for row in rows if not of or row["position"] in groups[of]])

    def change(self, sweep: str, what: Change) -> str:
        act = {"pause": sweeps.pause, "resume": sweeps.resume, "cancel": sweeps.cancel}[what]
        with Session(self._engine) as session, session.begin():
            return act(session, sweep).state.value

    def retry(self, sweep: str) -> int:
        with Session(self._engine) as session, session.begin():
            return sweeps.retry(session, sweep)

    def submit(self, text: bytes, source: str, on_preparing: Callable[[int], None]) -> Submitted:
        from orchestrator.submit import submit_text

        return submit_text(self._settings, self._engine, text, source, on_preparing=on_preparing)

    def import_runs(self, sweep: str, table: Path, law: Mapping[str, Any]) -> dict[str, Any]:
        from fitter.imports import import_table, law_settings
        from fitter.table import read
        from orchestrator.tracking.process import catch_up

        names = ("form", "residual", "huber_delta", "level")
        settings = law_settings(*(law.get(name) for name in names))
        done = asdict(import_table(self._engine, sweep, read(table), law=settings))
        trouble = catch_up(self._settings, self._engine)
        if trouble is not None:
            click.echo(f"warning: {trouble}", err=True)
        return {"name": done.pop("sweep"), **done}

    def events(self, sweep: str) -> Iterator[Event]:
        from fitter.service.context import Context
        from fitter.service.events import PERIOD, Position, changes, look
        from fitter.service.laws import LawCache
        from fitter.service.submission import Links
        from orchestrator.client import Event

        with Session(self._engine) as session:
            sweeps.get(session, sweep)
        context = Context(settings=self._settings, engine=self._engine, laws=LawCache(), links=Links())
        position: Position | None = None
        told: set[int] = set()
        while (now := look(context, sweep)) is not None:
            if position is None:
                position, told = Position.after(now), {number for _, number, _ in now.runs}
            for event in changes(position, now, told):
                position = event.position
                yield Event(event.kind, json.loads(event.data), str(position))
            time.sleep(PERIOD)
