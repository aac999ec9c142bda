"""Finished runs from elsewhere: into the ledger once, with every problem named, and from there to law and MLflow."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from ledger import runs
from ledger.models import Run, Sweep
from ledger.settings import Settings
from orchestrator.command.main import cli
from tests.service import grid

RUNS = "/v1/sweeps/theirs/runs"


def theirs() -> list[dict[str, Any]]:
    """A table as somebody's own training code writes it: the four columns, and some of their own."""
    columns = ("sparsity", "nonzero_params", "data", "loss")
    return [
        {**{column: cell[column] for column in columns}, "learning_rate": 3e-4, "cluster": "a"}
        for cell in grid.cells()
    ]


def post(client: TestClient, table: Any, address: str = RUNS, **params: Any) -> Any:
    return client.post(
        address, content=json.dumps(table), headers={"content-type": "application/json"}, params=params
    )


def test_a_table_becomes_a_sweep_with_a_law_that_answers(client: TestClient) -> None:
    answer = post(client, theirs())
    assert answer.status_code == 201, answer.text
    done = answer.json()
    assert (done["created"], done["added"], done["unchanged"], done["law_version"]) == (True, 48, 0, 1)
    law = client.get("/v1/sweeps/theirs/law").json()
    assert law["coefficients"] == pytest.approx(grid.document()["coefficients"], rel=1e-6)
    assert client.get("/v1/sweeps/theirs/suggestions").json()["items"]
    assert client.get("/v1/sweeps/theirs/law/optimum?nonzero_params=1e7&flops=1e18").status_code == 200
    far = client.get("/v1/sweeps/theirs").json()
    assert (far["state"], far["progress"]["health"], far["runs"]["completed"]) == ("completed", "done", 48)
    assert client.get("/v1/sweeps/theirs/forest").json() == {"segments": []}
    first = client.get(f"{RUNS}?cell=true&limit=1").json()["items"][0]
    assert first["name"] == "N=1M S=0% D=65.5M dense"
    assert first["cell"]["cluster"] == "a"
    assert first["tip_key"] is None


@pytest.mark.parametrize("kind", ["csv", "parquet", "columns"])
def test_every_format_brings_the_same_runs(client: TestClient, session: Session, kind: str) -> None:
    frame = pd.DataFrame(theirs())
    if kind == "csv":
        body, media_type = frame.to_csv(index=False).encode(), "text/csv"
    elif kind == "parquet":
        sink = io.BytesIO()
        frame.to_parquet(sink)
        body, media_type = sink.getvalue(), "application/vnd.apache.parquet"
    else:
        body, media_type = json.dumps(frame.to_dict("list")).encode(), "application/json"
    answer = client.post(RUNS, content=body, headers={"content-type": media_type})
    assert answer.status_code == 201, answer.text
    there = runs.table(session, "theirs")
    assert [row["loss"] for row in there] == [cell["loss"] for cell in grid.cells()]
    assert {row["learning_rate"] for row in there} == {3e-4}


def test_the_same_table_again_changes_nothing_and_a_longer_one_adds_what_is_new(client: TestClient) -> None:
    post(client, theirs()[:40])
    again = post(client, theirs()[:40])
    assert again.status_code == 200
    assert (again.json()["added"], again.json()["unchanged"], again.json()["law_version"]) == (0, 40, 1)
    longer = post(client, theirs())
    assert longer.status_code == 201
    assert (longer.json()["added"], longer.json()["unchanged"], longer.json()["law_version"]) == (8, 40, 2)


def test_an_export_of_one_ledger_is_imported_by_another(client: TestClient, fitted: Sweep) -> None:
    exported = client.get("/v1/sweeps/grid/runs?format=csv").content
    answer = client.post(RUNS, content=exported, headers={"content-type": "text/csv"})
    assert answer.status_code == 201, answer.text
    mine, other = (client.get(f"/v1/sweeps/{name}/runs").json()["items"] for name in ("grid", "theirs"))
    for column in ("name", "loss", "sparsity", "method", "pattern", "seed", "steps", "completed_at"):
        assert [run[column] for run in mine] == [run[column] for run in other]


def test_every_problem_is_told_with_its_rows_and_nothing_is_stored(
    client: TestClient, engine: Engine
) -> None:
    table: list[dict[str, Any]] = theirs()[:6]
    table[0]["sparsity"] = 75
    table[2]["loss"] = None
    table[3]["nonzero_params"] = "5M"
    answer = post(client, table)
    assert answer.status_code == 422
    said = "\n".join(item["message"] for item in answer.json()["errors"])
    assert "row 1: sparsity is 1 or more" in said
    assert "row 3: loss is missing" in said
    assert "row 4: nonzero_params is not a number (first: '5M')" in said
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM sweeps")) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1.5}, "row 2: seed is not a whole number"),
        ({"steps": "many"}, "row 2: steps is not a whole number"),
        ({"note": {"a": 1}}, "row 2: note is not a number, text or a truth value"),
        ({"note": "a\0b"}, "row 2: note is not a number, text"),
        ({"note": "\ud800"}, "row 2: note is not a number, text"),
        ({"state": "failed"}, "row 2: state is not 'completed'"),
        ({"completed_at": "yesterday"}, "row 2: completed_at is not a time"),
        ({"nonzero_params": 1e30}, "row 2: nonzero_params is above 1e+18"),
        ({"name": "x" * 2000}, "row 2: name is not text of up to 1000"),
        ({"x" * 100: 1}, "cannot be kept"),
    ],
)
def test_a_value_that_cannot_be_kept_is_named(client: TestClient, change: dict[str, Any], said: str) -> None:
    table = theirs()[:3]
    table[1] = {**table[1], **change}
    answer = post(client, table)
    assert answer.status_code == 422, answer.text
    assert said in answer.text


def test_runs_may_join_a_sweep_that_trains_but_not_contradict_it(
    client: TestClient, sweep: Sweep, session: Session
) -> None:
    grid.complete(session, sweep, {"nonzero_params": 1e6})
    known = grid.cells()[:13]
    answer = post(client, known, "/v1/sweeps/grid/runs")
    assert answer.status_code == 422  # the first 12 are done with the same loss; the 13th is being trained
    assert "row 13: the sweep trains this cell itself" in answer.text
    answer = post(client, [{**known[0], "loss": 1.0}], "/v1/sweeps/grid/runs")
    assert "row 1: loss is 1, and run 'N=1M S=0% D=0.0655B dense' of the same cell has" in answer.text
    answer = post(client, [{**cell, "seed": 7} for cell in known], "/v1/sweeps/grid/runs")
    assert (answer.status_code, answer.json()["added"]) == (201, 13)
    assert client.get("/v1/sweeps/grid").json()["runs"]["total"] == 61
    assert (
        session.scalars(select(Run.position).where(Run.tip_key.is_(None)).order_by(Run.position)).first()
        == 48
    )


def test_the_law_of_a_new_sweep_takes_its_settings_and_an_old_one_keeps_its_own(client: TestClient) -> None:
    answer = post(client, theirs(), form="average-params", residual="raw", huber_delta=0.01, level=0.5)
    assert answer.status_code == 201, answer.text
    law = client.get("/v1/sweeps/theirs/law").json()
    assert (law["form"], law["settings"]["residual"], law["settings"]["level"]) == (
        "average-params",
        "raw",
        0.5,
    )
    other = post(client, theirs(), form="sparsity")
    assert other.status_code == 409
    assert "without law settings" in other.json()["detail"]
    assert post(client, theirs(), form="average-params").status_code == 200
    unknown = post(client, theirs(), "/v1/sweeps/new/runs", form="nonsense")
    assert unknown.status_code == 422
    assert "nonsense" in unknown.text


def test_too_few_runs_are_kept_and_the_answer_says_what_a_law_needs(client: TestClient) -> None:
    done = post(client, theirs()[:2]).json()
    assert (done["added"], done["law_version"]) == (2, None)
    assert done["missing"]


@pytest.mark.parametrize("name", ["Upper", "-x", "a b", "x" * 64])
def test_a_name_that_no_sweep_can_have_is_refused(client: TestClient, name: str) -> None:
    assert post(client, theirs(), f"/v1/sweeps/{name}/runs").status_code == 422


def test_the_command_imports_a_file_and_says_what_keeps_mlflow_from_showing_it(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "runs.csv"
    pd.DataFrame(theirs()).to_csv(path, index=False)
    environment = {
        "LACUNA_DATABASE_URL": str(settings.database_url),
        "LACUNA_HOME": str(settings.home),
        "LACUNA_TRACKING_URI": "http://127.0.0.1:1",
    }
    done = CliRunner().invoke(cli, ["import", "theirs", str(path)], env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "new sweep theirs: 48 runs imported, 0 were there already" in done.stdout
    assert "law: version 1" in done.stdout
    assert "MLflow at http://127.0.0.1:1 does not answer" in done.stderr


def test_the_command_imports_through_a_service_too(served: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    pd.DataFrame(theirs()).to_parquet(path)
    arguments = ["import", "theirs", str(path), "--api", served, "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["name"], answer["added"], answer["law_version"]) == ("theirs", 48, 1)
