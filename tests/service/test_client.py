"""The client, and the command with `--api`, against a real service: the same answers as from the ledger itself."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import fitter
from fitter.service import SubmitError, SubmitResult
from fitter.service.context import Context
from ledger.models import Sweep
from orchestrator.client import Client, ClientError, Refused, Unavailable
from orchestrator.command.main import cli
from tests.service import grid


@pytest.fixture
def asking(served: str) -> Iterator[Client]:
    """A client of the served service."""
    with Client(served, pause=lambda seconds: None) as client:
        yield client


def lacuna(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What the command prints; its errors are raised."""
    done = CliRunner().invoke(cli, list(arguments), env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweeps"],
        ["runs", "grid"],
        ["runs", "grid", "--failed"],
        ["status", "grid"],
        ["law", "grid"],
        ["law", "grid", "--json"],
        ["predict", "--sweep=grid", "-S0.75", "-N5e6", "-D1e9", "--json"],
        ["optimum", "--sweep=grid", "-N5e6", "-C1e18"],
        ["optimum", "--sweep=grid", "--json"],
        ["suggest", "grid", "--flops=1e18", "--limit=2", "--json"],
        ["compare", "grid", "--form=sparsity", "--json"],
    ],
    ids=" ".join,
)
def test_a_command_says_the_same_of_a_service_as_of_its_ledger(
    served: str, fitted: Sweep, engine: Engine, arguments: list[str], tmp_path: Any
) -> None:
    url = engine.url.render_as_string(hide_password=False)
    here = {"LACUNA_DATABASE_URL": url, "LACUNA_HOME": str(tmp_path)}
    there = {"LACUNA_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "LACUNA_HOME": str(tmp_path)}
    local = lacuna(*arguments, environment=here)
    assert lacuna(*arguments, "--api", served, environment=there) == local
    assert local.strip()


def test_the_address_and_the_token_may_come_from_the_environment(
    served: str, fitted: Sweep, tmp_path: Any
) -> None:
    environment = {"LACUNA_API_URL": f"{served}/v1/", "LACUNA_HOME": str(tmp_path)}
    assert "grid" in lacuna("sweeps", environment=environment)


def test_pause_resume_cancel_and_retry_reach_the_sweep(served: str, sweep: Sweep) -> None:
    assert lacuna("pause", "grid", "--api", served) == "grid is paused\n"
    assert lacuna("resume", "grid", "--api", served) == "grid is active\n"
    assert lacuna("retry", "grid", "--api", served) == "no run of grid has failed\n"
    assert lacuna("cancel", "grid", "--api", served) == "grid is cancelled\n"


def test_the_client_covers_the_whole_interface(asking: Client, fitted: Sweep) -> None:
    assert asking.ready()
    assert [sweep.name for sweep in asking.sweeps()] == ["grid"]
    assert asking.sweep("grid").spec_text == "name: grid"
    assert asking.progress("grid").runs.completed == 48
    assert len(asking.forest("grid").segments) > 12
    assert [run.position for run in asking.runs("grid")] == list(range(48))
    assert next(asking.runs("grid", cell=True)).cell["steps"] == 1000  # type: ignore[index]
    assert asking.runs_table("grid", "csv").count(b"\n") == 49
    assert list(asking.attempts("grid")) == []
    law = fitter.Law.from_document(asking.law("grid"))
    assert [version.version for version in asking.law_history("grid")] == [1]
    predicted = asking.predict("grid", 0.5, 4e6, 1e9)
    assert predicted.loss == pytest.approx(float(law.predict(0.5, 4e6, 1e9).loss))
    assert asking.predict_many("grid", [0.5], [4e6], [1e9]).loss == [predicted.loss]
    best = asking.optimum("grid", 4e6, 1e18)
    assert asking.optimum_many("grid", [4e6], [1e18]).items == [best]
    assert asking.contours("grid", [0.5], points=3).contours[0].sparsity == 0.5
    assert len(asking.suggestions("grid", limit=1).items) == 1


def test_every_operation_of_the_service_has_a_method(app: FastAPI) -> None:
    named = {
        item["operationId"]
        for methods in app.openapi()["paths"].values()
        for item in methods.values()
        if "operationId" in item
    }
    methods = {
        "list_sweeps": "sweeps", "submit_sweep": "submit", "get_sweep": "sweep", "get_progress": "progress",
        "get_forest": "forest", "pause_sweep": "pause", "resume_sweep": "resume", "cancel_sweep": "cancel",
        "retry_sweep": "retry", "list_failed_attempts": "attempts", "list_runs": "runs", "get_law": "law",
        "get_law_history": "law_history", "predict": "predict", "predict_many": "predict_many",
        "optimum": "optimum", "optimum_many": "optimum_many", "contours": "contours", "fit_table": "fit",
        "suggestions": "suggestions", "import_runs": "import_runs", "get_costs": "costs", "held_out": "held_out",
        "sweep_events": "events", "readyz": "ready",
    }  # fmt: skip
    assert named - set(methods) == {"healthz", "metrics"}  # for those who run the service
    assert all(callable(getattr(Client, method)) for method in methods.values())


def test_polling_a_law_that_has_not_changed_brings_no_second_copy(
    served: str, fitted: Sweep, session: Session
) -> None:
    answers: list[int] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            answers.append(answer.status_code)
            return answer

    with Client(served, transport=Counting()) as client:
        assert client.law("grid") == client.law("grid")
        grid.store_law(session, fitted)
        assert client.law("grid")["version"] == 2
    assert answers == [200, 304, 200]


def test_a_table_is_fitted_by_the_service(asking: Client) -> None:
    document = asking.fit(grid.cells(), draws=0)
    assert document["coefficients"] == pytest.approx(grid.document()["coefficients"], rel=1e-6)
    with pytest.raises(Refused, match="column 'loss' is missing"):
        asking.fit([{"sparsity": 0}])


def test_a_refused_spec_lists_every_problem(asking: Client, app: FastAPI) -> None:
    def refuse(body: bytes, kind: str) -> SubmitResult:
        entry = {"path": "grid.sparsity[1]", "line": 7, "value": 1.5, "message": "must be less than 1"}
        raise SubmitError([entry, {"path": "name", "message": "is missing"}])

    context: Context = app.state.context
    object.__setattr__(context, "submit", refuse)
    with pytest.raises(Refused) as caught:
        asking.submit("name: x")
    assert str(caught.value).splitlines() == [
        "2 problems found; nothing was stored.",
        "  line 7: grid.sparsity[1]: must be less than 1 (found 1.5)",
        "  name: is missing",
    ]


def test_an_unknown_sweep_is_refused_with_names_like_it(asking: Client, sweep: Sweep) -> None:
    with pytest.raises(Refused, match=r"No sweep is named 'grit'. Did you mean grid\?"):
        asking.progress("grit")
    with pytest.raises(Refused, match="grit"):
        next(asking.events("grit"))


def test_where_nobody_answers_the_message_says_where_and_what_to_do() -> None:
    with (
        Client("127.0.0.1:1", pause=lambda seconds: None) as client,
        pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 does not answer.*lacuna serve"),
    ):
        client.progress("x")
    with pytest.raises(ClientError, match="is no address"):
        Client("ftp://host")


def test_something_else_at_the_address_is_said_so() -> None:
    other = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>hello</html>"))
    with Client("http://host", transport=other) as client, pytest.raises(Unavailable, match="something else"):
        client.progress("x")


def test_a_busy_service_is_asked_again_when_it_said_so() -> None:
    pauses: list[float] = []
    answers = iter([httpx.Response(503, headers={"Retry-After": "3"}), httpx.Response(200, json={"a": 1})])
    transport = httpx.MockTransport(lambda request: next(answers))
    with Client("http://host", transport=transport, pause=pauses.append) as client:
        assert client.law("x") == {"a": 1}
    assert pauses == [3.0]


def test_events_go_on_after_the_connection_was_lost(served: str, sweep: Sweep, session: Session) -> None:
    lost: list[str | None] = []

    class Losing(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            lost.append(request.headers.get("last-event-id"))
            if len(lost) == 2:
                raise httpx.ReadError("lost")
            return super().handle_request(request)

    with Client(served, transport=Losing(), pause=lambda seconds: None) as client:
        first = next(client.events("grid"))
        assert (first.kind, first.data["runs"]["pending"]) == ("progress", 48)
        grid.complete(session, sweep, {"nonzero_params": 1e6, "steps": 1000})
        found = list(itertools.islice(client.events("grid", first.id), 4))
    assert [event.kind for event in found] == ["run"] * 4
    assert {json.dumps(event.data["steps"]) for event in found} == {"1000"}
    assert lost == [None, first.id, first.id]


def test_the_ledger_tells_the_same_events_as_the_service(
    engine: Engine, settings: Any, sweep: Sweep, session: Session
) -> None:
    from orchestrator.command.ledger_source import LedgerSource

    events = LedgerSource(settings, engine).events("grid")
    assert next(events).kind == "progress"
    threading.Timer(
        0.1, lambda: grid.complete(session, sweep, {"nonzero_params": 1e6, "steps": 1000})
    ).start()
    assert [next(events).kind for _ in range(5)] == ["run"] * 4 + ["progress"]
