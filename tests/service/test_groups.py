"""A sweep that mixes patterns has a law for each, in the ledger, over REST and in the client."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitter.imports import import_table
from fitter.refit import Refitter
from ledger import fits, sweeps
from orchestrator.client import Client, Refused
from tests.service import grid
from tests.service.test_client import lacuna

LAW = "/v1/sweeps/mixed/law"


@pytest.fixture
def mixed(engine: Engine) -> str:
    """Its name, both laws fitted."""
    assert import_table(engine, "mixed", grid.mixed_table()).missing == []
    return "mixed"


def test_each_group_has_a_law_of_its_own(
    client: TestClient, engine: Engine, mixed: str, session: Session
) -> None:
    sweep = client.get("/v1/sweeps/mixed").json()
    assert [group["name"] for group in sweep["groups"]] == ["unstructured", "n:4"]
    assert [len(group["runs"]) for group in sweep["groups"]] == [48, 12 + 24]
    first, second = (client.get(LAW, params={"group": name}).json() for name in ("unstructured", "2:4"))
    assert (first["group"], first["runs"], second["group"], second["runs"]) == ("unstructured", 48, "n:4", 36)
    assert second["gain"]["0.75"]["value"] < first["gain"]["0.75"]["value"]
    assert client.get(LAW).json() == first
    history = client.get(f"{LAW}/history").json()["items"]
    assert [(item["version"], item["group"]) for item in history] == [(2, "n:4"), (1, "unstructured")]
    assert len(client.get(f"{LAW}/history?group=n:4").json()["items"]) == 1
    assert client.get(LAW, params={"version": 2}).json() == second
    # Nothing to do any more: both are current.
    assert Refitter(engine).refit("mixed").current
    assert len(fits.history(session, sweeps.get(session, "mixed").id)) == 2


def test_answers_are_of_the_group_that_is_asked(client: TestClient, mixed: str) -> None:
    question = {"sparsity": 0.75, "nonzero_params": 4e6, "data": 1e9}
    answers = [client.get(f"{LAW}/predict", params=question | {"group": g}).json() for g in ("", "n:4")]
    assert [answer["group"] for answer in answers] == ["unstructured", "n:4"]
    assert math.log(answers[1]["loss"] / answers[0]["loss"]) == pytest.approx(0.045, abs=0.01)
    held = client.get(f"{LAW}/held-out", params={"group": "n:4"}).json()
    members = client.get("/v1/sweeps/mixed").json()["groups"][1]["runs"]
    assert set(held["positions"]) < set(members)
    assert client.get("/v1/sweeps/mixed/suggestions", params={"group": "n:4", "limit": 1}).status_code == 200
    unknown = client.get(LAW, params={"group": "block:4x4"})
    assert unknown.status_code == 404
    assert "the groups are unstructured, n:4" in unknown.json()["detail"]


def test_a_group_that_lacks_runs_says_which_and_keeps_nobody_else_waiting(
    engine: Engine, client: TestClient
) -> None:
    rows = [row for row in grid.mixed_table() if row["pattern"] != "1:4"]
    done = import_table(engine, "mixed", rows)
    assert done.law_version == 1
    assert all(line.startswith("2:4: ") for line in done.missing)
    problem = client.get(LAW, params={"group": "2:4"}).json()
    assert any("sparsity" in line for line in problem["missing"])
    assert client.get(LAW).json()["group"] == "unstructured"


def test_client_and_command_ask_for_a_group(engine: Engine, served: str, mixed: str, tmp_path: Path) -> None:
    with Client(served) as asking:
        assert asking.law("mixed", group="1:4")["group"] == "n:4"
        assert asking.optimum("mixed", 4e6, 1e18, group="n:4").group == "n:4"
        with pytest.raises(Refused, match="no group 'channel'"):
            asking.law("mixed", group="channel")
    url = engine.url.render_as_string(hide_password=False)
    here = {"LACUNA_DATABASE_URL": url, "LACUNA_HOME": str(tmp_path)}
    for question in (
        ["law", "mixed"],
        ["status", "mixed"],
        ["law", "mixed", "--json"],
        ["law", "mixed", "--group", "2:4"],
        ["optimum", "--sweep=mixed", "--group=2:4", "-N4e6", "-C1e18"],
        ["suggest", "mixed", "--group=n:4", "--flops=1e18", "--limit=1"],
    ):
        assert lacuna(*question, environment=here) == lacuna(*question, "--api", served)
    shown = lacuna("law", "mixed", "--group", "2:4", environment=here)
    assert "law of mixed, group n:4, version 2" in shown
    assert "other groups of this sweep (--group): unstructured" in shown
