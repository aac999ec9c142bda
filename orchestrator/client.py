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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from httpx_sse import SSEError, connect_sse
from pydantic import BaseModel

from fitter.service import schemas

Answer = TypeVar("Answer", bound=BaseModel)
#: A runs table: a file (CSV, Parquet, JSON), a list of records, or an object of columns.
Table = Path | Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]

MEDIA_TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
    ".pq": "application/vnd.apache.parquet",
    ".json": "application/json",
}
TRIES = 4
"""Times that a question is asked of a service that is busy or does not answer."""
LONGEST_PAUSE = 10.0
KEPT_LAWS = 16


class ClientError(RuntimeError):
    """A request that brought no answer; the message is the whole story."""


class Refused(ClientError):
    """The service refused the request: `problem` is its RFC 9457 document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, dict(problem)
        self.kind = str(problem.get("type", "")).rpartition("#")[2]
        lines = [str(problem.get("detail") or problem.get("title") or f"the service answered {status}")]
        lines += [f"  {_line(item)}" for item in problem.get("errors", [])]
        super().__init__("\n".join(lines))


class Unavailable(ClientError):
    """Nothing answers at the address, or the service failed."""


@dataclass(frozen=True)
class Event:
    """One server-sent event: `progress`, `run` or `law`, with its data as in the service's description."""

    kind: str
    data: dict[str, Any]
    id: str


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
        self.url = _address(url)
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        loopback = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            transport=transport,
            trust_env=not loopback,  # no proxy reaches this machine's own loopback
        )
        self._pause = pause
        self._laws: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    # ---- sweeps ----------------------------------------------------------------------------------

    def sweeps(self) -> Iterator[schemas.SweepSummary]:
        """All sweeps, newest first."""
        yield from self._pages("/v1/sweeps", schemas.SweepList, limit=500)

    def sweep(self, name: str) -> schemas.Sweep:
        """One sweep with its spec, its plan and its progress."""
        return self._get(_sweep(name), schemas.Sweep)

    def submit(self, spec: bytes | str) -> schemas.Submitted:
        """Submit a spec, as the bytes of its YAML file. The same spec twice is one sweep.

        Raises Refused with every problem of the spec.
        """
        body = spec.encode() if isinstance(spec, str) else spec
        # Preparing data may take its minutes.
        return self._send(
            "/v1/sweeps", schemas.Submitted, content=body, kind="application/yaml", timeout=1000.0
        )

    def progress(self, name: str) -> schemas.Progress:
        """How far a sweep is."""
        return self._get(f"{_sweep(name)}/progress", schemas.Progress)

    def forest(self, name: str) -> schemas.Forest:
        """The training segments, parents first."""
        return self._get(f"{_sweep(name)}/forest", schemas.Forest)

    def pause(self, name: str) -> schemas.Changed:
        """Let workers stop at their next checkpoint."""
        return self._send(f"{_sweep(name)}/pause", schemas.Changed)

    def resume(self, name: str) -> schemas.Changed:
        """Let a paused or cancelled sweep go on."""
        return self._send(f"{_sweep(name)}/resume", schemas.Changed)

    def cancel(self, name: str) -> schemas.Changed:
        """End a sweep; what was trained is kept."""
        return self._send(f"{_sweep(name)}/cancel", schemas.Changed)

    def retry(self, name: str) -> schemas.Retried:
        """Give failed runs another budget of attempts."""
        return self._send(f"{_sweep(name)}/retry", schemas.Retried)

    def events(self, name: str, last_event_id: str | None = None) -> Iterator[Event]:
        """What happens to a sweep, as it happens. Reconnects, and gets what it missed, until the caller stops.

        Raises Refused for an unknown sweep, Unavailable where the service stays away.
        """
        seen, failures = last_event_id, 0
        while True:
            headers = {"Last-Event-ID": seen} if seen else {}
            try:
                with connect_sse(
                    self._http, "GET", f"{_sweep(name)}/events", headers=headers, timeout=_patient(45.0)
                ) as source:
                    if source.response.is_error:
                        source.response.read()
                        _raise(source.response)
                    for event in source.iter_sse():
                        failures = 0
                        seen = event.id or seen
                        if not event.data:  # only how long to wait before a reconnect
                            continue
                        yield Event(event.event, json.loads(event.data), event.id)
            except (httpx.TransportError, SSEError, Unavailable) as error:
                failures += 1
                if failures >= TRIES:
                    raise Unavailable(f"{self.url} does not answer: {error}") from error
            self._pause(min(2.0 ** (failures - 1), LONGEST_PAUSE))

    # ---- runs ------------------------------------------------------------------------------------

    def runs(self, name: str, *, state: str | None = None, cell: bool = False) -> Iterator[schemas.Run]:
        """The runs in grid order. `cell`: with every value of their cells."""
        yield from self._pages(
            f"{_sweep(name)}/runs", schemas.RunList, state=state, cell=cell or None, limit=1000
        )

    def runs_table(self, name: str, form: Literal["csv", "parquet"], *, state: str | None = None) -> bytes:
        """The runs as a CSV or Parquet file."""
        return self._ask("GET", f"{_sweep(name)}/runs", params=_given(format=form, state=state)).content

    def import_runs(self, name: str, table: Table, **law: Any) -> schemas.ImportedRuns:
        """Import finished runs from elsewhere into a sweep, new or not. The same table twice is imported once.

        `law`: form, residual, huber_delta, level of a new sweep's law. Raises Refused with every problem, rows named.
        """
        content, kind = _table(table)
        return self._send(
            f"{_sweep(name)}/runs",
            schemas.ImportedRuns,
            content=content,
            kind=kind,
            params=_given(**law),
            timeout=600.0,
        )

    def attempts(self, name: str) -> Iterator[schemas.FailedAttempt]:
        """The attempts that did not complete, newest first, with their reasons."""
        yield from self._get(f"{_sweep(name)}/attempts", schemas.FailedAttempts).items

    # ---- the law ---------------------------------------------------------------------------------

    def law(self, name: str, version: int | None = None) -> dict[str, Any]:
        """The law document, newest or of that version; `fitter.Law.from_document` makes it answer questions.

        What was fetched before is asked for by its ETag, so polling is cheap. Raises Refused (404) before the first
        fit, with what is missing.
        """
        path = f"{_sweep(name)}/law" + (f"?version={version}" if version is not None else "")
        tag, known = self._laws.get(path, (None, None))
        answer = self._ask("GET", path, headers={"If-None-Match": tag} if tag else {})
        if answer.status_code == 304 and known is not None:
            return known
        document: dict[str, Any] = answer.json()
        self._laws[path] = (answer.headers.get("etag", ""), document)
        while len(self._laws) > KEPT_LAWS:
            self._laws.popitem(last=False)
        return document

    def law_history(self, name: str) -> Iterator[schemas.FitVersion]:
        """Every version of the law, newest first."""
        yield from self._pages(f"{_sweep(name)}/law/history", schemas.FitHistory, limit=500)

    def predict(
        self, name: str, sparsity: float, nonzero_params: float, data: float, *, version: int | None = None
    ) -> schemas.PredictionAnswer:
        """Predicted loss of one model."""
        asked = _given(sparsity=sparsity, nonzero_params=nonzero_params, data=data, version=version)
        return self._get(f"{_sweep(name)}/law/predict", schemas.PredictionAnswer, **asked)

    def predict_many(
        self, name: str, sparsity: Sequence[float], nonzero_params: Sequence[float], data: Sequence[float]
    ) -> schemas.Predictions:
        """Predicted losses of up to 10,000 models, as columns."""
        body = {"sparsity": list(sparsity), "nonzero_params": list(nonzero_params), "data": list(data)}
        return self._send(f"{_sweep(name)}/law/predict", schemas.Predictions, json_body=body)

    def optimum(
        self,
        name: str,
        nonzero_params: float,
        flops: float,
        accounting: schemas.Accounting = "dense",
        *,
        version: int | None = None,
    ) -> schemas.OptimumAnswer:
        """How sparse a model of N non-zero parameters should be, trained with C FLOPs."""
        asked = _given(nonzero_params=nonzero_params, flops=flops, accounting=accounting, version=version)
        return self._get(f"{_sweep(name)}/law/optimum", schemas.OptimumAnswer, **asked)

    def optimum_many(
        self,
        name: str,
        nonzero_params: Sequence[float],
        flops: Sequence[float],
        accounting: schemas.Accounting = "dense",
        *,
        measured: Mapping[str, Sequence[float]] | None = None,
    ) -> schemas.Optima:
        """Optimal sparsities of up to 500 models. `measured`: your own `{"sparsity": […], "multiplier": […]}`."""
        body: dict[str, Any] = {
            "nonzero_params": list(nonzero_params),
            "flops": list(flops),
            "accounting": accounting,
        }
        if measured is not None:
            body["measured"] = {key: list(values) for key, values in measured.items()}
        return self._send(f"{_sweep(name)}/law/optimum", schemas.Optima, json_body=body)

    def held_out(self, name: str, axis: str = "data") -> schemas.HeldOut:
        """How a law that has not seen the far end of an axis (nonzero_params, data, sparsity, flops) predicts it."""
        return self._get(f"{_sweep(name)}/law/held-out", schemas.HeldOut, axis=axis)

    def costs(self, name: str) -> schemas.Costs:
        """What sparse training really cost, from the times of the sweep's runs."""
        return self._get(f"{_sweep(name)}/costs", schemas.Costs)

    def contours(
        self,
        name: str,
        sparsity: Sequence[float] | None = None,
        accounting: schemas.Accounting = "dense",
        **more: Any,
    ) -> schemas.Contours:
        """Where each sparsity is the best, over N and C. `more`: nonzero_low, nonzero_high, points, version."""
        asked = _given(
            sparsity=list(sparsity) if sparsity is not None else None, accounting=accounting, **more
        )
        return self._get(f"{_sweep(name)}/law/contours", schemas.Contours, **asked)

    def suggestions(
        self,
        name: str,
        *,
        flops: float | None = None,
        limit: int | None = None,
        nonzero_params: float | None = None,
        budget: float | None = None,
        accounting: schemas.Accounting = "dense",
    ) -> schemas.Suggestions:
        """The runs that tell the most for their FLOPs."""
        asked = _given(
            flops=flops, limit=limit, nonzero_params=nonzero_params, budget=budget, accounting=accounting
        )
        return self._get(f"{_sweep(name)}/suggestions", schemas.Suggestions, **asked)

    def fit(self, table: Table, **settings: Any) -> dict[str, Any]:
        """Fit a table without storing it; the law document. `settings`: form, residual, huber_delta, level, draws."""
        content, kind = _table(table)
        answer = self._ask(
            "POST", "/v1/fit", content=content, kind=kind, params=_given(**settings), timeout=600.0
        )
        document: dict[str, Any] = answer.json()
        return document

    # ---- the service itself ----------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the service answers and reaches its ledger."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    # ---- how -------------------------------------------------------------------------------------

    def _get(self, path: str, kind: type[Answer], **params: Any) -> Answer:
        return _parse(kind, self._ask("GET", path, params=params or None))

    def _send(
        self,
        path: str,
        answer: type[Answer],
        *,
        content: bytes | None = None,
        json_body: Any = None,
        kind: str = "application/json",
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        if json_body is not None:
            content = json.dumps(json_body).encode()
        return _parse(
            answer, self._ask("POST", path, content=content, kind=kind, params=params, timeout=timeout)
        )

    def _pages(self, path: str, kind: type[Any], **params: Any) -> Iterator[Any]:
        asked = _given(**params)
        while True:
            page = self._get(path, kind, **asked)
            yield from page.items
            if page.next_cursor is None:
                return
            asked["cursor"] = page.next_cursor

    def _ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        kind: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """One request. Again where the service is busy; where it does not answer, only what cannot happen twice:
        reading, and what the service itself makes harmless to repeat (submitting, pausing, importing)."""
        sent = {**(headers or {}), **({"Content-Type": kind} if kind and content is not None else {})}
        options: dict[str, Any] = {} if timeout is None else {"timeout": _patient(timeout)}
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                answer = self._http.request(
                    method, path, content=content, params=params, headers=sent, **options
                )
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.ReadTimeout | httpx.UnsupportedProtocol):
                    raise Unavailable(
                        f"{self.url} does not answer: {str(error) or type(error).__name__}; is `lacuna serve` "
                        "running there, and is the address right?"
                    ) from error
                self._pause(0.2 * 2**attempt)
                continue
            if answer.status_code in (429, 503) and not last:
                self._pause(min(float(answer.headers.get("retry-after", 1)), LONGEST_PAUSE))
                continue
            break
        if answer.is_error:
            _raise(answer)
        return answer


def _sweep(name: str) -> str:
    return f"/v1/sweeps/{quote(name, safe='')}"


def _address(url: str) -> str:
    found = url.strip().rstrip("/").removesuffix("/v1")
    if "://" not in found:
        found = f"http://{found}"
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unavailable(f"'{url}' is no address of a service: write http://host:port")
    return found


def _patient(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=10.0)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


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


def _parse(kind: type[Answer], answer: httpx.Response) -> Answer:
    try:
        # A newer service may say more than this client knows.
        return kind.model_validate_json(answer.content, extra="ignore")
    except ValueError as error:
        raise Unavailable(
            f"{answer.request.url} answered something else than Lacuna does; is the address right?"
        ) from error


def _raise(answer: httpx.Response) -> None:
    try:
        problem = answer.json()
        assert isinstance(problem, dict)
    except (ValueError, AssertionError):
        problem = {"detail": f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}"}
    if answer.status_code >= 500:
        raise Unavailable(str(Refused(answer.status_code, problem)))
    raise Refused(answer.status_code, problem)


def _line(item: Mapping[str, Any]) -> str:
    """One entry of a problem document as a line."""
    where = str(item.get("path") or item.get("where") or "")
    if item.get("line"):
        where = f"line {item['line']}: {where}"
    value = f" (found {item['value']!r})" if item.get("value") is not None else ""
    return f"{where}: {item.get('message')}{value}" if where else f"{item.get('message')}{value}"
