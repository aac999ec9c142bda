"""A command's facts from a service elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitter.service import schemas
from ledger.models import SweepState
from ledger.progress import Progress
from ledger.runs import COLUMNS
from orchestrator.client import Client, Event, Refused
from orchestrator.command.facts import Change, no_law_yet

if TYPE_CHECKING:
    from fitter.measurement import MeasuredCosts
    from orchestrator.submit import Submitted


class ApiSource:
    """`orchestrator.command.facts.Source` on a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def sweeps(self) -> list[dict[str, Any]]:
        return [
            {
                "name": sweep.name,
                "state": sweep.state.value,
                "created_at": sweep.created_at,
                **sweep.runs.model_dump(),
                "best_loss": sweep.best_loss,
                "eta_seconds": self._eta(sweep),
            }
            for sweep in self._client.sweeps()
        ]

    def _eta(self, sweep: schemas.SweepSummary) -> float | None:
        if sweep.state is SweepState.completed:
            return 0.0
        return self._client.progress(sweep.name).seconds_left if sweep.state is SweepState.active else None

    def progress(self, sweep: str) -> Progress:
        return progress_of(sweep, self._client.progress(sweep))

    def plan(self, sweep: str) -> dict[str, Any]:
        return self._client.sweep(sweep).plan

    def law_summary(self, sweep: str) -> tuple[dict[str, Any] | None, list[str]]:
        document, missing = self._law(sweep)
        if document is None:
            return None, missing
        return {
            name: document[name] for name in ("version", "runs", "created_at", "group") if name in document
        }, []

    def groups(self, sweep: str) -> dict[str, frozenset[int]]:
        return {group.name: frozenset(group.runs) for group in self._client.sweep(sweep).groups}

    def law(self, sweep: str, group: str | None = None) -> dict[str, Any]:
        document, missing = self._law(sweep, group)
        if document is None:
            raise no_law_yet(sweep, missing)
        return document

    def _law(self, sweep: str, group: str | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        try:
            return self._client.law(sweep, group=group), []
        except Refused as refused:
            if refused.kind != "no-law-yet":
                raise
            return None, list(refused.problem.get("missing", []))

    def mlflow(self, sweep: str) -> str | None:
        return self._client.sweep(sweep).links.get("mlflow")

    def runs(self, sweep: str) -> list[dict[str, Any]]:
        return [_row(run) for run in self._client.runs(sweep, cell=True)]

    def failed_attempts(self, sweep: str) -> list[dict[str, Any]]:
        return [attempt.model_dump() for attempt in self._client.attempts(sweep)]

    def costs(self, sweep: str, group: str | None = None) -> MeasuredCosts:
        from fitter.measurement import MeasuredCosts

        costs = self._client.costs(sweep, group=group)
        return MeasuredCosts(tuple(costs.sparsity), tuple(costs.multiplier), tuple(costs.runs))

    def change(self, sweep: str, what: Change) -> str:
        act = {"pause": self._client.pause, "resume": self._client.resume, "cancel": self._client.cancel}[
            what
        ]
        return act(sweep).state.value

    def retry(self, sweep: str) -> int:
        return self._client.retry(sweep).runs

    def submit(self, text: bytes, source: str, on_preparing: Callable[[int], None]) -> Submitted:
        from orchestrator.submit import Submitted

        done = self._client.submit(text)
        return Submitted(name=done.name, outcome=done.outcome, runs_added=done.runs_added, plan=done.plan)

    def import_runs(self, sweep: str, table: Path, law: Mapping[str, Any]) -> dict[str, Any]:
        return self._client.import_runs(sweep, table, **law).model_dump(exclude={"links"})

    def events(self, sweep: str) -> Iterator[Event]:
        return self._client.events(sweep)


def progress_of(sweep: str, far: schemas.Progress) -> Progress:
    """What REST says of a sweep's progress, as the ledger says it."""
    segments = far.segments
    return Progress(
        sweep=sweep,
        state=far.state.value,
        **far.runs.model_dump(),
        best_loss=far.best_loss,
        best_run=far.best_run,
        segments_total=segments.total,
        segments_done=segments.completed,
        segments_running=segments.running,
        segments_shared=segments.shared,
        segments_reused=segments.reused,
        steps_total=segments.steps,
        steps_done=segments.steps_done,
        steps_alone=segments.steps_alone,
        eta_seconds=0.0 if far.state is SweepState.completed else far.seconds_left,
    )


def _row(run: schemas.Run) -> dict[str, Any]:
    """A run as a row of a runs table, as `ledger.runs.table` gives it."""
    values = {**(run.cell or {}), **run.model_dump(exclude={"cell", "tip_key"})}
    values["state"] = run.state.value
    return {column: values.get(column) for column in COLUMNS} | values
