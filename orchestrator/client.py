"""A client of the REST service, typed: what `lacuna --api URL` uses, and what your own scripts can.

    from orchestrator.client import Client

    with Client("http://gpu-box:8321", token="lac_…") as client:
        client.submit(open("sweep.yaml", "rb").read())
        for event in client.events("my-sweep"):
            print(event.kind, event.data)
        print(client.optimum("my-sweep", nonzero_params=5e6, flops=1e18).sparsity)

Answers are the service's own types (`fitter.service.schemas`). A refused request raises `Refused` with the problem
document; a service that does not answer raises `Unavailable`.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import httpx

from fitter.service import schemas
from orchestrator.rest import ClientError, Event, Refused, Rest, Unavailable, given

__all__ = ["Client", "ClientError", "Event", "Refused", "Unavailable"]

#: A runs table: a file (CSV, Parquet, JSON), a list of records, or an object of columns.
Table = Path | Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]

MEDIA_TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
    ".pq": "application/vnd.apache.parquet",
    ".json": "application/json",
}
KEPT_LAWS = 16


class Client:
    """The whole REST interface. One connection pool; threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`url`: where the service is, such as `http://gpu-box:8321`. `token`: sent as a bearer token.

        Raises Unavailable for something that is no address.
        """
        self._rest = Rest(url, token=token, timeout=timeout, transport=transport, pause=pause)
        self._laws: OrderedDict[tuple[str, int | None, str | None], tuple[str, dict[str, Any]]] = (
            OrderedDict()
        )

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._rest.url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._rest.close()

    # ---- sweeps ----------------------------------------------------------------------------------

    def sweeps(self) -> Iterator[schemas.SweepSummary]:
        """All sweeps, newest first."""
        yield from self._rest.pages("/v1/sweeps", schemas.SweepList, limit=500)

    def sweep(self, name: str) -> schemas.Sweep:
        """One sweep with its spec, its plan and its progress."""
        return self._rest.get(_sweep(name), schemas.Sweep)

    def submit(self, spec: bytes | str) -> schemas.Submitted:
        """Submit a spec, as the bytes of its YAML file. The same spec twice is one sweep.

        Raises Refused with every problem of the spec.
        """
        body = spec.encode() if isinstance(spec, str) else spec
        # Preparing data may take its minutes.
        return self._rest.send(
            "/v1/sweeps", schemas.Submitted, content=body, kind="application/yaml", timeout=1000.0
        )

    def progress(self, name: str) -> schemas.Progress:
        """How far a sweep is."""
        return self._rest.get(f"{_sweep(name)}/progress", schemas.Progress)

    def forest(self, name: str) -> schemas.Forest:
        """The training segments, parents first."""
        return self._rest.get(f"{_sweep(name)}/forest", schemas.Forest)

    def pause(self, name: str) -> schemas.Changed:
        """Let workers stop at their next checkpoint."""
        return self._rest.send(f"{_sweep(name)}/pause", schemas.Changed)

    def resume(self, name: str) -> schemas.Changed:
        """Let a paused or cancelled sweep go on."""
        return self._rest.send(f"{_sweep(name)}/resume", schemas.Changed)

    def cancel(self, name: str) -> schemas.Changed:
        """End a sweep; what was trained is kept."""
        return self._rest.send(f"{_sweep(name)}/cancel", schemas.Changed)

    def retry(self, name: str) -> schemas.Retried:
        """Give failed runs another budget of attempts."""
        return self._rest.send(f"{_sweep(name)}/retry", schemas.Retried)

    def events(self, name: str, last_event_id: str | None = None) -> Iterator[Event]:
        """What happens to a sweep, as it happens. Reconnects, and gets what it missed, until the caller stops.

        Raises Refused for an unknown sweep, Unavailable where the service stays away.
        """
        yield from self._rest.events(f"{_sweep(name)}/events", last_event_id)

    # ---- runs ------------------------------------------------------------------------------------

    def runs(self, name: str, *, state: str | None = None, cell: bool = False) -> Iterator[schemas.Run]:
        """The runs in grid order. `cell`: with every value of their cells."""
        yield from self._rest.pages(
            f"{_sweep(name)}/runs", schemas.RunList, state=state, cell=cell or None, limit=1000
        )

    def runs_table(self, name: str, form: Literal["csv", "parquet"], *, state: str | None = None) -> bytes:
        """The runs as a CSV or Parquet file."""
        return self._rest.ask("GET", f"{_sweep(name)}/runs", params=given(format=form, state=state)).content

    def import_runs(self, name: str, table: Table, **law: Any) -> schemas.ImportedRuns:
        """Import finished runs from elsewhere into a sweep, new or not. The same table twice is imported once.

        `law`: form, residual, huber_delta, level of a new sweep's law. Raises Refused with every problem, rows named.
        """
        content, kind = _table(table)
        return self._rest.send(
            f"{_sweep(name)}/runs",
            schemas.ImportedRuns,
            content=content,
            kind=kind,
            params=given(**law),
            timeout=600.0,
        )

    def attempts(self, name: str) -> Iterator[schemas.FailedAttempt]:
        """The attempts that did not complete, newest first, with their reasons."""
        yield from self._rest.get(f"{_sweep(name)}/attempts", schemas.FailedAttempts).items

    # ---- the law ---------------------------------------------------------------------------------

    def law(self, name: str, version: int | None = None, *, group: str | None = None) -> dict[str, Any]:
        """The law document, newest or of that version; `fitter.Law.from_document` makes it answer questions.

        `group`, here and below: which of the sweep's groups of runs (`sweep(name).groups`); the first by default.

        What was fetched before is asked for by its ETag, so polling is cheap. Raises Refused (404) before the first
        fit, with what is missing.
        """
        key = (name, version, group)
        tag, known = self._laws.get(key, (None, None))
        answer = self._rest.ask(
            "GET",
            f"{_sweep(name)}/law",
            params=given(version=version, group=group),
            headers={"If-None-Match": tag} if tag else {},
        )
        if answer.status_code == 304 and known is not None:
            return known
        document: dict[str, Any] = answer.json()
        self._laws[key] = (answer.headers.get("etag", ""), document)
        while len(self._laws) > KEPT_LAWS:
            self._laws.popitem(last=False)
        return document

    def law_history(self, name: str, *, group: str | None = None) -> Iterator[schemas.FitVersion]:
        """Every version of the law, newest first; of all groups, unless one is asked for."""
        yield from self._rest.pages(f"{_sweep(name)}/law/history", schemas.FitHistory, group=group, limit=500)

    def predict(
        self,
        name: str,
        sparsity: float,
        nonzero_params: float,
        data: float,
        *,
        version: int | None = None,
        group: str | None = None,
    ) -> schemas.PredictionAnswer:
        """Predicted loss of one model."""
        asked = given(
            sparsity=sparsity, nonzero_params=nonzero_params, data=data, version=version, group=group
        )
        return self._rest.get(f"{_sweep(name)}/law/predict", schemas.PredictionAnswer, **asked)

    def predict_many(
        self,
        name: str,
        sparsity: Sequence[float],
        nonzero_params: Sequence[float],
        data: Sequence[float],
        *,
        intervals: bool = True,
        group: str | None = None,
    ) -> schemas.Predictions:
        """Predicted losses of up to 10,000 models, as columns; far sooner without their intervals."""
        body = {
            "sparsity": list(sparsity),
            "nonzero_params": list(nonzero_params),
            "data": list(data),
            "intervals": intervals,
        }
        return self._rest.send(
            f"{_sweep(name)}/law/predict", schemas.Predictions, json_body=body, params=given(group=group)
        )

    def optimum(
        self,
        name: str,
        nonzero_params: float | None = None,
        flops: float | None = None,
        accounting: schemas.Accounting = "dense",
        *,
        version: int | None = None,
        group: str | None = None,
    ) -> schemas.OptimumAnswer:
        """How sparse a model of N non-zero parameters should be, trained with C FLOPs; without them, the question that
        the sweep's own runs answer best."""
        asked = given(
            nonzero_params=nonzero_params, flops=flops, accounting=accounting, version=version, group=group
        )
        return self._rest.get(f"{_sweep(name)}/law/optimum", schemas.OptimumAnswer, **asked)

    def optimum_many(
        self,
        name: str,
        nonzero_params: Sequence[float],
        flops: Sequence[float],
        accounting: schemas.Accounting = "dense",
        *,
        measured: Mapping[str, Sequence[float]] | None = None,
        group: str | None = None,
    ) -> schemas.Optima:
        """Optimal sparsities of up to 500 models. `measured`: your own `{"sparsity": […], "multiplier": […]}`."""
        body: dict[str, Any] = {
            "nonzero_params": list(nonzero_params),
            "flops": list(flops),
            "accounting": accounting,
        }
        if measured is not None:
            body["measured"] = {key: list(values) for key, values in measured.items()}
        return self._rest.send(
            f"{_sweep(name)}/law/optimum", schemas.Optima, json_body=body, params=given(group=group)
        )

    def held_out(self, name: str, axis: str = "data", *, group: str | None = None) -> schemas.HeldOut:
        """How a law that has not seen the far end of an axis (nonzero_params, data, sparsity, flops) predicts it."""
        return self._rest.get(
            f"{_sweep(name)}/law/held-out", schemas.HeldOut, **given(axis=axis, group=group)
        )

    def costs(self, name: str, *, group: str | None = None) -> schemas.Costs:
        """What sparse training really cost, from the times of the sweep's runs."""
        return self._rest.get(f"{_sweep(name)}/costs", schemas.Costs, **given(group=group))

    def contours(
        self,
        name: str,
        sparsity: Sequence[float] | None = None,
        accounting: schemas.Accounting = "dense",
        **more: Any,
    ) -> schemas.Contours:
        """Where each sparsity is the best, over N and C. `more`: nonzero_low, nonzero_high, points, version,
        group."""
        asked = given(
            sparsity=list(sparsity) if sparsity is not None else None, accounting=accounting, **more
        )
        return self._rest.get(f"{_sweep(name)}/law/contours", schemas.Contours, **asked)

    def suggestions(
        self,
        name: str,
        *,
        flops: float | None = None,
        limit: int | None = None,
        nonzero_params: float | None = None,
        budget: float | None = None,
        accounting: schemas.Accounting = "dense",
        group: str | None = None,
    ) -> schemas.Suggestions:
        """The runs that tell the most for their FLOPs."""
        asked = given(
            flops=flops,
            limit=limit,
            nonzero_params=nonzero_params,
            budget=budget,
            accounting=accounting,
            group=group,
        )
        return self._rest.get(f"{_sweep(name)}/suggestions", schemas.Suggestions, **asked)

    def fit(self, table: Table, **settings: Any) -> dict[str, Any]:
        """Fit a table without storing it; the law document. `settings`: form, residual, huber_delta, level, draws."""
        content, kind = _table(table)
        answer = self._rest.ask(
            "POST", "/v1/fit", content=content, kind=kind, params=given(**settings), timeout=600.0
        )
        document: dict[str, Any] = answer.json()
        return document

    # ---- the service itself ----------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the service answers and reaches its ledger."""
        return self._rest.ready()


def _sweep(name: str) -> str:
    return f"/v1/sweeps/{quote(name, safe='')}"


def _table(table: Table) -> tuple[bytes, str]:
    """A table as a request's body, and its media type. Raises ClientError for a file that cannot be sent."""
    if not isinstance(table, Path):
        return json.dumps(table).encode(), "application/json"
    kind = MEDIA_TYPES.get(table.suffix.lower())
    if kind is None:
        raise Refused(415, {"detail": f"'{table}' must end in one of {', '.join(MEDIA_TYPES)}"})
    try:
        return table.read_bytes(), kind
    except OSError as error:
        raise Refused(400, {"detail": f"'{table}' cannot be read: {error.strerror or error}"}) from error
