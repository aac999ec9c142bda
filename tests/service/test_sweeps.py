"""Sweeps over REST: the list, one of them, submitting, and pause, resume, cancel."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, func, update
from sqlalchemy.orm import Session

from fitter.service import SubmitError, SubmitResult, create_app
from ledger.models import Attempt, Segment, Sweep
from ledger.settings import Settings
from tests.service import grid


def test_the_list_is_read_by_cursor_newest_first(client: TestClient, session: Session) -> None:
    for number in range(5):
        grid.plant(session, f"sweep-{number}")
    first = client.get("/v1/sweeps?limit=3").json()
    grid.plant(session, "sweep-5")  # one that comes while the list is read neither repeats nor hides any
    second = client.get("/v1/sweeps", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    names = [item["name"] for item in first["items"] + second["items"]]
    assert names == ["sweep-4", "sweep-3", "sweep-2", "sweep-1", "sweep-0"]
    assert second["next_cursor"] is None


def test_an_empty_ledger_has_an_empty_list(client: TestClient) -> None:
    assert client.get("/v1/sweeps").json() == {"items": [], "next_cursor": None}


def test_a_sweep_tells_how_far_it_is(client: TestClient, sweep: Sweep, session: Session) -> None:
    grid.complete(session, sweep, {"nonzero_params": 1e6})
    answer = client.get("/v1/sweeps/grid").json()
    assert answer["runs"]["completed"] == 12
    assert answer["progress"]["runs"] == answer["runs"]
    assert answer["progress"]["runs"]["total"] == 48
    assert answer["progress"]["segments"]["completed"] < answer["progress"]["segments"]["total"]
    assert answer["spec_text"] == "name: grid"
    assert answer["best_loss"] == min(c["loss"] for c in grid.cells() if c["nonzero_params"] == 1e6)
    assert client.get("/v1/sweeps").json()["items"][0]["runs"] == answer["runs"]


def test_what_is_being_trained_is_listed_with_its_speed(
    client: TestClient, sweep: Sweep, session: Session
) -> None:
    key = "N1e+06-dense-250"
    session.execute(update(Segment).where(Segment.key == key).values(state="running"))
    attempt = Attempt(segment_key=key, controller="c", worker="node-1:42", started_step=0, step=100, loss=5.5)
    session.add(attempt)
    session.flush()
    session.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(
            started_at=func.clock_timestamp() - timedelta(seconds=10), heartbeat_at=func.clock_timestamp()
        )
    )
    session.commit()
    progress = client.get("/v1/sweeps/grid/progress").json()
    assert progress["health"] == "running"
    assert progress["steps_per_second"] == pytest.approx(10, rel=0.05)
    (working,) = progress["working"]
    assert (working["worker"], working["step"], working["end_step"]) == ("node-1:42", 100, 250)
    assert working["runs"] == 12  # the first stretch of a trunk serves every run of its size
    assert progress["runs"]["running"] == 12


def test_the_forest_names_parents_first_and_the_runs_that_share(client: TestClient, sweep: Sweep) -> None:
    segments = client.get("/v1/sweeps/grid/forest").json()["segments"]
    seen: set[str | None] = {None}
    for segment in segments:
        assert segment["parent_key"] in seen
        seen.add(segment["key"])
    roots = [segment for segment in segments if segment["parent_key"] is None]
    assert [len(root["runs"]) for root in roots] == [12] * 4


def test_an_unknown_sweep_is_a_problem_that_names_what_looks_like_it(
    client: TestClient, sweep: Sweep
) -> None:
    answer = client.get("/v1/sweeps/grids/progress")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Did you mean grid?" in answer.json()["detail"]
    assert answer.json()["instance"] == "/v1/sweeps/grids/progress"


def test_pause_resume_and_cancel_move_the_state_and_repeat_harmlessly(
    client: TestClient, sweep: Sweep
) -> None:
    for change, state in [
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "active"),
        ("cancel", "cancelled"),
        ("resume", "active"),
    ]:
        assert client.post(f"/v1/sweeps/grid/{change}").json() == {"name": "grid", "state": state}
        assert client.get("/v1/sweeps/grid").json()["state"] == state


def test_a_sweep_that_is_over_cannot_be_paused(client: TestClient, sweep: Sweep, session: Session) -> None:
    sweep.state = "completed"  # type: ignore[assignment]
    session.commit()
    answer = client.post("/v1/sweeps/grid/pause")
    assert answer.status_code == 409
    assert "'grid' is completed" in answer.json()["detail"]


def test_without_a_planner_submitting_says_so(client: TestClient) -> None:
    answer = client.post("/v1/sweeps", content=b"name: x", headers={"content-type": "application/yaml"})
    assert answer.status_code == 501


@pytest.fixture
def submitted() -> list[tuple[bytes, str]]:
    """Bodies that reached the planner."""
    return []


@pytest.fixture
def planning(settings: Settings, engine: Engine, submitted: list[tuple[bytes, str]]) -> FastAPI:
    """The service with a planner that accepts all but the body `bad`."""

    def submit(body: bytes, kind: str) -> SubmitResult:
        submitted.append((body, kind))
        if body == b"bad":
            problem: dict[str, Any] = {"path": "grid.sparsity[1]", "line": 7, "value": 1.5}
            raise SubmitError([{**problem, "message": "must lie in [0, 1)"}])
        if body == b"taken":
            raise SubmitError([{"message": "a sweep named 'x' exists"}], conflict=True)
        return SubmitResult(
            name="x", outcome="created" if len(submitted) == 1 else "unchanged", plan={"runs": 3}
        )

    return create_app(settings=settings, engine=engine, submit=submit)


def test_the_bytes_of_the_file_reach_the_planner_as_they_are(
    planning: FastAPI, submitted: list[tuple[bytes, str]]
) -> None:
    with TestClient(planning, base_url="http://127.0.0.1") as client:
        body = "name: x  # größe\n".encode()
        first = client.post("/v1/sweeps", content=body, headers={"content-type": "application/yaml"})
        again = client.post("/v1/sweeps", content=body, headers={"content-type": "application/yaml"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"] == "/v1/sweeps/x"
    assert submitted[0] == (body, "application/yaml")


def test_a_refused_spec_lists_every_problem_with_its_place(planning: FastAPI) -> None:
    with TestClient(planning, base_url="http://127.0.0.1") as client:
        bad = client.post("/v1/sweeps", content=b"bad")
        taken = client.post("/v1/sweeps", content=b"taken")
        image = client.post("/v1/sweeps", content=b"x", headers={"content-type": "image/png"})
    assert bad.status_code == 422
    assert bad.json()["errors"] == [
        {"path": "grid.sparsity[1]", "line": 7, "value": 1.5, "message": "must lie in [0, 1)"}
    ]
    assert taken.status_code == 409
    assert image.status_code == 415
