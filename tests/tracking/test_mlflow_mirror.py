from __future__ import annotations

import itertools
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import URL, Engine, select, update
from sqlalchemy.orm import Session

from fitter.imports import import_table
from fitter.mlflow_pages import VIEW_KEY
from fitter.refit import Refitter
from ledger import attempts, points
from ledger.models import Run, Sweep
from ledger.settings import Settings
from orchestrator.tracking import process, store
from orchestrator.tracking.errors import TrackingError
from orchestrator.tracking.mlflow_mirror import Mirror, batches
from orchestrator.tracking.process import mirroring
from tests.controller.watching import until
from tests.ledger.forests import plant, run, segment
from tests.tracking.sweep_with_law import finish, finish_all, plant_grid


@pytest.fixture
def mirror(settings: Settings, engine: Engine) -> Mirror:
    """A mirror of the test's ledger, in the database `mlflow` on the session's server."""
    return Mirror(engine, store.connect(settings), store.artifacts(settings).as_uri())


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    """A client of one's own."""
    return MlflowClient(tracking_uri=store.tracking_uri(settings))


def found(client: MlflowClient, sweep: str) -> dict[str, Any]:
    """Name of each MLflow run of a sweep → the run."""
    experiment = client.get_experiment_by_name(sweep)
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_runs_that_were_imported_are_shown_with_their_losses(
    session: Session, engine: Engine, mirror: Mirror, client: MlflowClient
) -> None:
    table = [
        {
            "sparsity": 0.5,
            "nonzero_params": 1e6,
            "data": 1e9,
            "loss": 2.5,
            "method": "theirs",
            "cluster": "a",
        },
        {"sparsity": 0, "nonzero_params": 1e6, "data": 1e9, "loss": 2.75},
    ]
    import_table(engine, "imported", table)
    mirror.sync()
    shown = found(client, "imported")
    assert set(shown) == {"N=1M S=50% D=1B theirs", "N=1M S=0% D=1B dense"}
    run = shown["N=1M S=50% D=1B theirs"]
    assert (run.info.status, run.data.metrics["final/loss"]) == ("FINISHED", 2.5)
    assert run.data.tags["lacuna.imported"] == "true"


def test_a_runs_history_is_whole_with_the_points_of_its_trunk(
    session: Session, engine: Engine, mirror: Mirror, client: MlflowClient
) -> None:
    parts = [segment("t", None, 0, 50), segment("a", "t", 50, 100), segment("b", "t", 50, 100)]
    plant(session, "whole", parts, [run("t", "a", name="A", sparsity=0.75), run("t", "b", name="B")])
    finish(engine, "t", 3.0)
    mirror.sync()
    finish(engine, "a", 2.0)
    mirror.sync()
    shown = found(client, "whole")
    history = client.get_metric_history(shown["A"].info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(10, 3.0), (50, 3.0), (60, 2.0), (100, 2.0)]
    assert len(client.get_metric_history(shown["B"].info.run_id, "loss")) == 2
    assert shown["A"].info.status == "FINISHED"
    assert shown["B"].info.status == "RUNNING"
    assert shown["A"].data.metrics["final/loss"] == 2.0
    assert shown["A"].data.params["S"] == "0.75"
    assert {"S", "N", "D", "seed", "steps"} <= set(shown["A"].data.params)
    note = client.get_experiment_by_name("whole").tags["mlflow.note.content"]
    assert "How sparse" in note
    assert "**The answer so far**: none" in note
    tags = shown["A"].data.tags
    assert (tags["sparsity"], tags["nonzero_params"], tags["status"], tags["segments"]) == (
        "0.75",
        "1000",
        "completed",
        "t a",
    )
    assert shown["B"].data.tags["status"] == "running"
    # One axis for runs of any batch size: 4096 tokens in 100 steps.
    tokens = client.get_metric_history(shown["A"].info.run_id, "tokens")
    assert [(point.step, point.value) for point in tokens] == [(s, s * 40.96) for s in (10, 50, 60, 100)]


def test_a_mirror_that_was_killed_makes_nothing_twice(
    session: Session, engine: Engine, settings: Settings, mirror: Mirror, client: MlflowClient
) -> None:
    plant(session, "twice", [segment("x", None, 0, 100)], [run("x", name="X")])
    finish(engine, "x")
    assert mirror.sync() > 0
    assert mirror.sync() == 0
    session.execute(update(Run).values(tracking_id=None, tracked_step=-1, tracked_final=False))
    session.execute(update(Sweep).values(tracking_id=None))
    session.commit()
    Mirror(engine, store.connect(settings), store.artifacts(settings).as_uri()).sync()
    shown = found(client, "twice")
    assert list(shown) == ["X"]
    assert len(client.get_metric_history(shown["X"].info.run_id, "loss")) == 2


@pytest.mark.parametrize("what", ["run", "experiment", "both, for good"])
def test_what_was_deleted_in_mlflow_of_a_sweep_that_goes_on_comes_back_and_no_other_sweep_waits(
    what: str, session: Session, engine: Engine, mirror: Mirror, client: MlflowClient
) -> None:
    gone, other = f"gone {what[:4]}", f"beside {what[:4]}"
    plant(session, gone, [segment("u", None, 0, 50), segment("v", "u", 50, 100)], [run("u", "v", name="V")])
    plant(session, other, [segment("w", None, 0, 100)], [run("w", name="W")])
    finish(engine, "u")
    mirror.sync()
    shown = found(client, gone)["V"]
    if what == "run":
        client.delete_run(shown.info.run_id)
    else:
        client.delete_experiment(shown.info.experiment_id)
    if what == "both, for good":
        # As after `mlflow gc`: nothing has these numbers any more.
        session.execute(update(Sweep).where(Sweep.name == gone).values(tracking_id="987654321"))
        session.execute(update(Run).where(Run.name == "V").values(tracking_id="0" * 32))
        session.commit()
    finish(engine, "v")
    finish(engine, "w")
    mirror.sync()
    assert found(client, other)["W"].info.status == "FINISHED"
    assert found(client, gone)["V"].info.status == "FINISHED"
    history = client.get_metric_history(found(client, gone)["V"].info.run_id, "loss")
    assert [point.step for point in history] == [10, 50, 60, 100]


def test_what_mlflow_refuses_of_one_sweep_holds_up_no_other(
    session: Session, engine: Engine, mirror: Mirror, client: MlflowClient
) -> None:
    plant(session, "refused", [segment("r", None, 0, 100)], [run("r", name="R", family="x" * 10_000)])
    plant(session, "taken", [segment("s", None, 0, 100)], [run("s", name="S")])
    finish(engine, "r")
    finish(engine, "s")
    with pytest.raises(MlflowException, match="too long"):
        mirror.sync()
    assert found(client, "taken")["S"].info.status == "FINISHED"


def test_a_mirror_that_dies_is_replaced(
    settings: Settings, session: Session, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "AGAIN_SECONDS", 0.1)
    heard: list[str | None] = []
    with mirroring(settings, heard.append):
        until(lambda: heard)  # that all is well
        for child in psutil.Process().children():
            if "orchestrator.tracking.process" in child.cmdline():
                child.kill()
        until(lambda: len(heard) == 3)
        plant(session, "orphan", [segment("o", None, 0, 100)], [run("o", name="O")])
        finish(engine, "o")
    assert heard[0] is None
    assert "died (-9)" in str(heard[1])
    assert heard[2] is None
    assert session.scalar(select(Run.tracked_final)) is True


def test_failed_and_diverged_runs_say_why(session: Session, mirror: Mirror, client: MlflowClient) -> None:
    plant(session, "bad", [segment("y", None, 0, 100)], [run("y", name="Y")])
    claim = attempts.claim(session, "y", "c", "host:1/1")
    assert claim is not None
    points.insert(session, claim.attempt_id, "y", [(7, "loss", float("nan"))])
    attempts.diverge(session, claim.attempt_id, "loss is nan after step 7")
    session.commit()
    mirror.sync()
    shown = found(client, "bad")["Y"]
    assert shown.info.status == "FAILED"
    assert "nan after step 7" in shown.data.tags["mlflow.note.content"]
    assert shown.data.tags["status"] == "diverged"


def test_a_fit_is_a_run_with_coefficients_and_plots(
    session: Session, engine: Engine, mirror: Mirror, client: MlflowClient
) -> None:
    cells = plant_grid(session, "fitted")
    finish_all(engine, cells)
    Refitter(engine).refit("fitted")
    mirror.sync()
    [fit] = [shown for name, shown in found(client, "fitted").items() if name.startswith("law v1")]
    assert fit.data.tags["lacuna.kind"] == "fit"
    assert {"a_S", "b_S", "c_S", "b_N", "a_D", "b_D", "c"} <= set(fit.data.metrics)
    assert fit.data.metrics["b_N/low"] < fit.data.metrics["b_N"] < fit.data.metrics["b_N/high"]
    names = [file.path for file in client.list_artifacts(fit.info.run_id)]
    assert "law.json" in names
    assert client.list_artifacts(fit.info.run_id, "plots")
    note = client.get_experiment_by_name("fitted").tags["mlflow.note.content"]
    assert "% sparse (90 % interval" in note
    assert "worth a dense one" in note
    assert "% sparse (90 % interval" in note.splitlines()[0]
    assert "% sparse (90 % interval" in fit.data.tags["mlflow.note.content"]
    # The view that links to MLflow open names columns that the cells have.
    view = json.loads(client.get_experiment_by_name("fitted").tags[f"mlflow.sharedViewState.{VIEW_KEY}"])
    cell = next(run for run in found(client, "fitted").values() if run.data.tags["lacuna.kind"] == "cell")
    has = {f"params.`{name}`" for name in cell.data.params} | {
        f"metrics.`{name}`" for name in cell.data.metrics
    }
    assert set(view["selectedColumns"]) - {"tags.`status`"} <= has
    assert cell.data.tags["status"]
    law = found(client, "fitted")["law over versions"]
    history = client.get_metric_history(law.info.run_id, "b_N")
    assert [(point.step, point.value) for point in history] == [(1, fit.data.metrics["b_N"])]


def test_points_go_out_in_batches_that_end_with_a_step() -> None:
    history = [points.Point(step, name, 1.0) for step in range(700) for name in ("a", "b", "c")]
    parts = list(batches(history))
    assert [point for part in parts for point in part] == history
    assert all(len(part) <= 1000 for part in parts)
    for part, following in itertools.pairwise(parts):
        assert part[-1].step < following[0].step


def test_a_tracking_server_that_does_not_answer_is_named_in_one_line_and_stops_nothing(
    home: Path, database_url: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries print, as MLflow's client does where a run ends: nobody may take it for the mirror's own words.
    (tmp_path / "sitecustomize.py").write_text("print('View run at: http://127.0.0.1:1')")
    monkeypatch.syspath_prepend(tmp_path)
    plant(session, "alone")
    settings = Settings(home=home, database_url=database_url, tracking_uri="http://127.0.0.1:1")
    heard: list[str | None] = []
    told = threading.Event()

    def hear(trouble: str | None) -> None:
        heard.append(trouble)
        told.set()

    with mirroring(settings, hear):
        assert told.wait(120)
    assert len(heard) == 1, "it ends by itself, however long it would have gone on asking"
    assert heard[0] is not None
    assert "http://127.0.0.1:1" in heard[0]
    assert "LACUNA_TRACKING_URI" in heard[0]
    assert "\n" not in heard[0]


def test_the_mirror_catches_up_after_an_outage(
    settings: Settings, session: Session, engine: Engine, postgres: Any
) -> None:
    plant(session, "outage", [segment("z", None, 0, 100)], [run("z", name="Z")])
    finish(engine, "z")
    with mirroring(settings, lambda trouble: None):
        pass
    assert session.scalar(select(Run.tracked_final)) is True
    client = MlflowClient(tracking_uri=store.tracking_uri(settings))
    assert found(client, "outage")["Z"].data.metrics["final/loss"] == 3.0


@pytest.fixture(scope="module")
def served(postgres: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's own server on the store beside the tests' ledgers."""
    url = postgres.set(database="template_lacuna").render_as_string(hide_password=False)
    settings = Settings(home=tmp_path_factory.mktemp("home"), database_url=url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, environment = store.tracking_server_command(settings, port)
    assert not any("postgres" in part for part in command)
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ask(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}')
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_the_mlflow_pages_show_the_store_on_loopback_only(
    served: str, session: Session, engine: Engine, mirror: Mirror
) -> None:
    plant(session, "served", [segment("w", None, 0, 100)], [run("w", name="W")])
    finish(engine, "w")
    mirror.sync()
    body = json.dumps({"max_results": 100}).encode()
    answer = ask(f"{served}/api/2.0/mlflow/experiments/search", body)
    assert "served" in {experiment["name"] for experiment in answer["experiments"]}
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{served}/api/2.0/mlflow/experiments/search", body, host="evil.example")
    assert refused.value.code == 403


def test_a_tracking_server_behind_a_token_takes_runs_and_artifacts(
    served: str, settings: Settings, session: Session, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(session, "guarded", [segment("g", None, 0, 100)], [run("g", name="G")])
    finish(engine, "g")
    trained = session.scalars(select(Run)).one()
    trained.result = {**(trained.result or {}), "checkpoint": "gs://runs/g"}
    session.commit()
    with behind_a_token(served, "sesame") as gate:
        elsewhere = replace(settings, tracking_uri=gate)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "wrong")
        with pytest.raises(TrackingError, match="401"):
            store.connect(elsewhere)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame")
        Mirror(engine, store.connect(elsewhere), None).sync()
        client = MlflowClient(tracking_uri=gate)
        made = found(client, "guarded")["G"]
        assert made.data.metrics["final/loss"] == 3.0
        assert [file.path for file in client.list_artifacts(made.info.run_id)] == ["checkpoint.json"]
        assert made.data.tags["checkpoint"] == "gs://runs/g"


@contextmanager
def behind_a_token(address: str, token: str) -> Iterator[str]:
    """The address of a gateway that lets only those with a bearer token through to a server."""

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] != f"Bearer {token}":
                self.send_error(401)
                return
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            headers = {"Content-Type": self.headers["Content-Type"] or "application/json"}
            answer = httpx.request(
                self.command, address + self.path, content=body, headers=headers, timeout=60
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    gateway = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{gateway.server_address[1]}"
    finally:
        gateway.shutdown()
        gateway.server_close()


def ask(url: str, body: bytes, host: str | None = None) -> Any:
    """POST JSON, waiting for the server to come up."""
    headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, "the MLflow server does not come up"
            time.sleep(0.3)


def test_a_password_is_never_shown() -> None:
    error = store.unreachable("postgresql://me:secret@host/mlflow", RuntimeError("no route\nmore"))
    assert "secret" not in str(error)
    assert "me:***@host" in str(error)
