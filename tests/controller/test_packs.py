"""A worker that takes siblings together: each member has its own claim, lease, fence and end. No Ray here."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger import attempts, controllers
from ledger.models import AttemptState
from ledger.settings import Settings
from ledger.sweeps import Place
from orchestrator.controller.orders import Assignment
from orchestrator.controller.packs import PackSizes
from orchestrator.controller.worker import Worker
from orchestrator.submit import submit_text
from orchestrator.tracking.journal import replay
from tests.controller import tiny
from tests.controller.watching import completed_twice, losses, rows, until


def submit(settings: Settings, engine: Engine, *, seeds: str, pack: str, steps: int, every: int = 10) -> None:
    """Runs of one shape and length that differ in nothing but their seed."""
    spec = tiny.spec_text(
        settings.home, sparsity="[0.5]", steps=f"[{steps}]", checkpoint_every=every, attempts=2
    )
    spec = spec.replace("  steps:", f"  seed: {seeds}\n  steps:").replace("batch_size: 4", "batch_size: 16")
    submit_text(settings, engine, spec.replace("log_every: 5", f"log_every: 5, pack: {pack}"))


def worker(settings: Settings, engine: Engine, controller: str = "one", workers: int = 1) -> Worker:
    with Session(engine) as session, session.begin():
        controllers.register(session, controller)
        attempts.fence_off(session, controller)
    given = assignment(settings, controller)
    return Worker(engine, given, "here:1/trial", Place("local", "cpu"), workers=workers)


def assignment(settings: Settings, controller: str) -> Assignment:
    return Assignment(
        ledger_url=settings.database_url or "",
        storage=settings.storage,
        controller=controller,
        sweep_ids=None,
        logs=settings.logs,
        home=settings.home,
    )


def states(worker: Worker) -> list[str]:
    """How the members of the next pack ended."""
    return [ended.state.value for ended in worker.work(None)]


def losses_alone(settings: Settings, engine: Engine, one: Worker, **options: int | str) -> dict[str, float]:
    """The losses of the same runs without packs, in an emptied ledger."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE sweeps, segments CASCADE"))
    submit(settings, engine, pack="1", **options)  # type: ignore[arg-type]
    while states(one):
        pass
    assert set(members(engine)) == {1}
    return losses(engine)


def members(engine: Engine) -> list[int]:
    return [
        row.members
        for row in rows(engine, "SELECT (result ->> 'members')::int AS members FROM segments ORDER BY key")
    ]


def test_siblings_are_trained_together_and_have_the_losses_of_runs_alone(
    settings: Settings, engine: Engine
) -> None:
    submit(settings, engine, seeds="[0, 1, 2]", pack="4", steps=20)
    one = worker(settings, engine)
    # The dense beginning of each seed, then its pruned rest: two packs of three.
    assert states(one) == ["completed"] * 3
    assert states(one) == ["completed"] * 3
    assert one.work(None) == []
    assert members(engine) == [3] * 6
    assert completed_twice(engine) == []
    assert rows(engine, "SELECT count(*) FROM attempts") == [(6,)]
    packed = losses(engine)
    # On the CPU, with batches of 16, no bit changes.
    assert losses_alone(settings, engine, one, seeds="[0, 1, 2]", steps=20) == packed


def test_who_was_killed_for_its_memory_goes_on_alone_and_then_in_smaller_parts(
    settings: Settings, engine: Engine
) -> None:
    submit(settings, engine, seeds="[0, 1, 2]", pack="4", steps=20)
    [key] = [
        row.key for row in rows(engine, "SELECT key FROM segments WHERE program ->> 'seed' = '1' LIMIT 1")
    ]
    for _ in range(3):
        with Session(engine) as session, session.begin():
            claim = attempts.claim(session, key, "one", "here:1/trial")
            assert claim is not None
            attempts.killed_for_memory(session, key, claim.attempt_id, "oom_kill 0 → 1")
            session.execute(text("UPDATE segments SET retry_at = NULL"))
    one = worker(settings, engine)
    while states(one):
        pass
    found = rows(engine, "SELECT key, result ->> 'micro_batch', result ->> 'members' FROM segments")
    of_it = [tuple(row)[1:] for row in found if row.key == key]
    # Of 16: the first kill may have been the pack's, the others halved it.
    assert of_it == [("4", "1")]
    assert {tuple(row)[1:] for row in found if row.key != key} <= {("16", "2"), ("16", "3"), ("16", "1")}
    assert rows(engine, "SELECT count(*) FROM runs WHERE state = 'completed'") == [(3,)]


def test_a_member_that_diverges_ends_alone(settings: Settings, engine: Engine) -> None:
    submit(settings, engine, seeds="[0, 1, 2]", pack="auto", steps=40)
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE segments SET program = jsonb_set(program, '{learning_rate,base}', '1e6')
                WHERE (program ->> 'seed')::int = 1
            """)
        )
    one = worker(settings, engine)
    assert sorted(states(one)) == ["completed", "completed", "diverged"]
    assert states(one) == ["completed", "completed"]
    assert rows(engine, "SELECT state, count(*) FROM runs GROUP BY state ORDER BY state") == [
        ("completed", 2),
        ("diverged", 1),
    ]


def test_a_member_that_nobody_wants_any_more_is_split_off_and_the_rest_goes_on(
    settings: Settings, engine: Engine
) -> None:
    submit(settings, engine, seeds="[0, 1]", pack="2", steps=400)
    one = worker(settings, engine)
    assert states(one) == ["completed"] * 2
    ended: list[AttemptState] = []
    training = threading.Thread(target=lambda: ended.extend(each.state for each in one.work(None)))
    training.start()
    until(lambda: rows(engine, "SELECT 1 FROM attempts WHERE state = 'running' AND step > started_step"))
    with engine.begin() as connection:
        # What cancelling does to a run, done to one of the two.
        connection.execute(text("UPDATE runs SET state = 'failed' WHERE (cell ->> 'seed')::int = 1"))
    training.join()
    assert sorted(ended) == [AttemptState.completed, AttemptState.stopped]
    [kept, _] = rows(engine, "SELECT state, loss FROM runs ORDER BY (cell ->> 'seed')::int")
    assert kept.state == "completed"
    [stopped] = rows(engine, "SELECT step FROM attempts WHERE state = 'stopped'")
    assert 100 < stopped.step < 400


def test_killed_with_a_pack_in_hand_another_worker_ends_it_with_the_same_bits(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    # Not "auto": with so many steps packs are measured, and on some machine they do not pay.
    submit(settings, engine, seeds="[0, 1]", pack="2", steps=400, every=20)
    code = f"""
from sqlalchemy import create_engine
from ledger.engine import connect
from ledger.settings import Settings
from pathlib import Path
from orchestrator.controller.process import set_up
from tests.controller.test_packs import assignment, worker
settings = Settings(home=Path({str(settings.home)!r}), database_url={settings.database_url!r})
set_up(assignment(settings, "killed"))
one = worker(settings, connect(settings.database_url), "killed")
while one.work(None):
    pass
"""
    first = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(
            lambda: rows(
                engine,
                "SELECT 1 FROM attempts JOIN segments ON key = segment_key WHERE attempts.state = 'running' "
                "AND progress_step > 100 HAVING count(*) = 2",
            ),
            seconds=240,
        )
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    two = worker(settings, engine, "next")
    replay(engine, assignment(settings, "next").journals)
    lost = rows(engine, "SELECT reason FROM attempts WHERE state = 'lost'")
    assert len(lost) == 2
    for (reason,) in lost:
        assert reason.startswith("controller next took over\nlast log lines:\n")
        assert "to 400, in a pack of 2" in reason
        assert ": checkpoint at step 120" in reason
    while states(two):
        pass
    assert completed_twice(engine) == []
    assert rows(engine, "SELECT count(*) FROM attempts WHERE state = 'lost'") == [(2,)]
    assert [
        int(count)
        for (count,) in rows(
            engine,
            """SELECT count(*) FROM metric_points JOIN run_segments USING (segment_key)
               WHERE name = 'loss' GROUP BY run_id""",
        )
    ] == [80, 80]
    disturbed = losses(engine)
    assert losses_alone(settings, engine, two, seeds="[0, 1]", steps=400, every=0) == disturbed


def test_what_another_worker_could_begin_with_is_left_to_it(settings: Settings, engine: Engine) -> None:
    submit(settings, engine, seeds="[0, 1]", pack="auto", steps=20)
    one = worker(settings, engine, workers=2)
    assert states(one) == ["completed"]


@pytest.mark.parametrize("batch", ["4", "16"])
def test_on_the_cpu_nothing_is_packed_by_itself_that_would_change_a_bit(
    settings: Settings, engine: Engine, batch: str
) -> None:
    submit(settings, engine, seeds="[0, 1]", pack="auto", steps=20)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE segments SET program = jsonb_set(program, '{batch_size}', :batch)"),
            {"batch": batch},
        )
    assert len(states(worker(settings, engine))) == (2 if batch == "16" else 1)


def test_where_packs_cannot_be_measured_the_segment_is_trained_alone(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> int:
        raise RuntimeError("no memory to measure in")

    monkeypatch.setattr(PackSizes, "choose", broken)
    submit(settings, engine, seeds="[0, 1]", pack="auto", steps=20)
    one = worker(settings, engine)
    while one.work(None):
        pass
    assert members(engine) == [1] * len(members(engine))
    assert rows(engine, "SELECT DISTINCT state FROM attempts") == [("completed",)]
