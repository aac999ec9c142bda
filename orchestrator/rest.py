"""Requests to the REST service, and what can go wrong with them: retries, problem documents, event streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from httpx_sse import SSEError, connect_sse
from pydantic import BaseModel

Answer = TypeVar("Answer", bound=BaseModel)
TRIES = 4
"""Times that a question is asked of a service that is busy or does not answer."""
LONGEST_PAUSE = 10.0


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


class Rest:
    """One connection pool to a service. Threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        timeout: float,
        transport: httpx.BaseTransport | None,
        pause: Callable[[float], None],
    ) -> None:
        """As for `orchestrator.client.Client`. Raises Unavailable for something that is no address."""
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

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the service answers and reaches its ledger."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, kind: type[Answer], **params: Any) -> Answer:
        """What is there, as one of the service's types."""
        return _parse(kind, self.ask("GET", path, params=params or None))

    def send(
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
        """What the service answers to a POST, as one of its types."""
        if json_body is not None:
            content = json.dumps(json_body).encode()
        return _parse(
            answer, self.ask("POST", path, content=content, kind=kind, params=params, timeout=timeout)
        )

    def pages(self, path: str, kind: type[Any], **params: Any) -> Iterator[Any]:
        """The items of all pages of a list."""
        asked = given(**params)
        while True:
            page = self.get(path, kind, **asked)
            yield from page.items
            if page.next_cursor is None:
                return
            asked["cursor"] = page.next_cursor

    def ask(
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
        options: dict[str, Any] = {} if timeout is None else {"timeout": patient(timeout)}
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

    def events(self, path: str, last_event_id: str | None) -> Iterator[Event]:
        """The events of a stream, without end: reconnects, and gets what it missed."""
        seen, failures = last_event_id, 0
        while True:
            headers = {"Last-Event-ID": seen} if seen else {}
            try:
                with connect_sse(self._http, "GET", path, headers=headers, timeout=patient(45.0)) as source:
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


def _address(url: str) -> str:
    found = url.strip().rstrip("/").removesuffix("/v1")
    if "://" not in found:
        found = f"http://{found}"
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unavailable(f"'{url}' is no address of a service: write http://host:port")
    return found


def patient(seconds: float) -> httpx.Timeout:
    """For an answer that may take so long; nobody waits long for a connection."""
    return httpx.Timeout(seconds, connect=10.0)


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


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
