"""The controller in this process, on one Ray, with real training."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger import controllers, runs, sweeps
from ledger.progress import Progress
from ledger.settings import Settings
from orchestrator import controller
from tests.controller import tiny
from tests.controller.watching import completed_twice, losses, rows, until

pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture
def tracked(settings: Settings) -> Settings:
    """The settings, with a file store of MLflow of its own."""
    return Settings(
        home=settings.home,
        database_url=settings.database_url,
        tracking_uri=f"sqlite:///{settings.home}/mlflow.db",
    )


def worker_process(engine: Engine) -> int:
    """The process that holds a segment, once one does and trains."""
    [(worker,)] = until(
        lambda: rows(engine, "SELECT worker FROM attempts WHERE state = 'running' AND step > 0 LIMIT 1")
    )
    return int(worker.split(":")[1].split("/")[0])


def test_a_forest_is_carried_out_once_each_segment_and_the_history_is_whole(
    tracked: Settings, engine: Engine
) -> None:
    tiny.submit(tracked)
    seen: list[Progress] = []
    outcome = controller.run(tracked, ["tiny"], on_progress=seen.append)
    assert outcome.ok
    assert seen[-1].completed == 4
    assert completed_twice(engine) == []
    assert rows(engine, "SELECT count(*) FROM attempts") == [(6,)]
    assert all(loss and loss < 6 for loss in losses(engine).values())
    # Each run's training loss is there at every logged step from its first, wherever it was trained.
    for steps, tip in rows(engine, "SELECT (cell ->> 'steps')::int, id FROM runs"):
        logged = rows(
            engine,
            """SELECT step FROM metric_points JOIN run_segments USING (segment_key)
               WHERE run_id = :run AND name = 'loss' ORDER BY step""",
            run=tip,
        )
        assert [step for (step,) in logged] == list(range(5, steps + 1, 5))
    assert controller.run(tracked, ["tiny"]).ok
    assert rows(engine, "SELECT count(*) FROM attempts") == [(6,)]


@pytest.mark.chaos
def test_a_killed_worker_costs_no_budget_and_changes_no_bit(tracked: Settings, engine: Engine) -> None:
    tiny.submit(tracked, sparsity="[0.5]", steps="[400]", checkpoint_every=50, attempts=1)
    killed = threading.Thread(target=lambda: os.kill(worker_process(engine), signal.SIGKILL))
    killed.start()
    assert controller.run(tracked, ["tiny"]).ok
    killed.join()
    [lost] = rows(engine, "SELECT kind, reason FROM attempts WHERE state = 'lost'")
    assert lost.kind == "preempted"
    assert "The actor" in lost.reason  # what Ray knows of its death
    assert "last log lines:" in lost.reason
    assert ", in a pack of 1" in lost.reason  # what it had taken up
    disturbed = losses(engine)
    assert completed_twice(engine) == []
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE sweeps, segments CASCADE"))
    tiny.submit(tracked, sparsity="[0.5]", steps="[400]", checkpoint_every=50)
    assert controller.run(tracked, ["tiny"]).ok
    assert losses(engine) == disturbed


def test_missing_data_fail_after_the_budget_and_the_reason_can_be_read(
    tracked: Settings, engine: Engine
) -> None:
    tiny.submit(tracked, sparsity="[0]", steps="[20]", attempts=2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE segments SET data_path = '/nowhere'"))
    outcome = controller.run(tracked, ["tiny"])
    assert not outcome.ok
    assert not outcome.interrupted
    assert outcome.sweeps[0].failed == 1
    with Session(engine) as session:
        failed = runs.failed_attempts(session, "tiny")
    assert [attempt["kind"] for attempt in failed] == ["data", "data"]
    assert "/nowhere" in failed[0]["reason"]
    assert os.uname().nodename in failed[0]["reason"]


def test_a_run_that_diverges_is_tried_once_and_the_others_go_on(tracked: Settings, engine: Engine) -> None:
    tiny.submit(tracked, sparsity="[0, 0.5]", steps="[40]")
    with engine.begin() as connection:
        # Steps as large as the weights, for the shape of the sparse run.
        connection.execute(
            text("""
                UPDATE segments SET program = jsonb_set(program, '{learning_rate,base}', '1e6')
                WHERE parent_key IS NULL AND (program -> 'pruning' ->> 'sparsity')::float > 0
            """)
        )
    outcome = controller.run(tracked, ["tiny"])
    assert (outcome.sweeps[0].completed, outcome.sweeps[0].diverged) == (1, 1)
    assert rows(engine, "SELECT count(*) FROM attempts WHERE state = 'diverged'") == [(1,)]


def test_pause_acts_in_the_middle_of_a_segment_and_resume_goes_on(tracked: Settings, engine: Engine) -> None:
    tiny.submit(tracked, sparsity="[0.5]", steps="[2000]", checkpoint_every=1000)
    in_the_middle = "SELECT 1 FROM attempts WHERE state = 'running' AND started_step = 500 AND step > 500"

    def pause_and_resume() -> None:
        until(lambda: rows(engine, in_the_middle))
        try:
            with Session(engine) as session, session.begin():
                sweeps.pause(session, "tiny")
            until(lambda: not rows(engine, "SELECT 1 FROM attempts WHERE state = 'running'"))
            time.sleep(2)
            assert not rows(engine, "SELECT 1 FROM attempts WHERE state = 'running'")
        finally:
            with Session(engine) as session, session.begin():
                sweeps.resume(session, "tiny")

    other = threading.Thread(target=pause_and_resume)
    other.start()
    assert controller.run(tracked, ["tiny"]).ok
    other.join()
    [stopped] = rows(engine, "SELECT step FROM attempts WHERE state = 'stopped'")
    [resumed] = rows(engine, "SELECT started_step FROM attempts ORDER BY id DESC LIMIT 1")
    # Not at its end: in the middle.
    assert 500 < stopped.step < 2000
    assert resumed.started_step >= stopped.step


def test_who_leads_for_one_sweep_serves_what_others_wish_for_until_its_own_is_over(
    tracked: Settings, engine: Engine
) -> None:
    tiny.submit(tracked, "own", sparsity="[0.5]", steps="[400]", checkpoint_every=100)
    tiny.submit(
        tracked, "wished", nonzero_params="[8000]", sparsity="[0]", steps="[20000]", checkpoint_every=50
    )
    tiny.submit(tracked, "unasked", nonzero_params="[16000]", sparsity="[0]", steps="[20]")
    with Session(engine) as session:
        wished = sweeps.get(session, "wished").id
    follower = controllers.Leadership(engine)
    follower.wish([wished])
    outcome = controller.run(tracked, ["own"])
    follower.release()
    assert outcome.ok
    attempts = """SELECT attempts.state FROM attempts JOIN runs ON tip_key = segment_key
                  JOIN sweeps ON sweeps.id = sweep_id WHERE sweeps.name = :name"""
    assert rows(engine, attempts, name="wished") == [("stopped",)]
    assert rows(engine, attempts, name="unasked") == []
