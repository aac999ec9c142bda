"""What the supervisor makes of workers that died: from what Ray tells of them to the ledger. No Ray here."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger import attempts, controllers, runs, sweeps
from ledger.models import Attempt, AttemptEnd
from ledger.settings import Settings
from orchestrator.controller import searcher as searching
from orchestrator.controller.supervisor import USELESS_STARTS, Supervisor
from tests.controller.watching import rows, until
from tests.ledger.forests import plant, run, segment

#: The beginnings of what Ray 2.60 says of a worker that its memory monitor killed, and of one killed otherwise.
MONITOR = "Failure # 1\n1 worker(s) were killed due to the node running low on memory. Memory on the node was 23.4GB"
OTHERWISE = (
    "Failure # 1\nThe actor died unexpectedly before finishing this task.\n... Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)


def test_each_death_is_taken_for_what_ray_says_that_it_is(settings: Settings, engine: Engine) -> None:
    keys = ["one", "two"]
    with Session(engine) as session:
        plant(session, segments=[segment(key, None, 0, 10) for key in keys], runs=[run(key) for key in keys])
        controllers.register(session, "c")
        held = [attempts.claim(session, key, "c", f"host:1/{key}") for key in keys]
        session.commit()
    leadership = controllers.Leadership(engine)
    assert leadership.try_acquire()
    searcher = SimpleNamespace(lost_trials={"one": MONITOR, "two": OTHERWISE}, given={}, wake=lambda: None)
    journals = settings.home / "spool"
    try:
        with Supervisor(engine, settings, leadership, "c", threading.Event(), journals=journals) as watching:
            watching.searcher = cast(Any, searcher)
            until(lambda: not searcher.lost_trials)
    finally:
        leadership.release()
    with Session(engine) as session:
        ended = [session.get_one(Attempt, claim.attempt_id) for claim in held if claim is not None]
        assert [attempt.kind for attempt in ended] == [AttemptEnd.memory, AttemptEnd.preempted]
        assert "running low on memory" in str(ended[0].reason)
        assert "actor died unexpectedly" in str(ended[1].reason)


def test_where_the_ledger_stood_still_the_living_prolong_their_leases_first(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told of it: a laptop that was closed, a server that was stopped. All heartbeats are old then."""
    monkeypatch.setattr(attempts, "LEASE_SECONDS", 2.0)
    with Session(engine) as session:
        plant(session, segments=[segment("one", None, 0, 10)], runs=[run("one")])
        controllers.register(session, "c")
        assert attempts.claim(session, "one", "c", "host:1/one") is not None
        session.commit()
    leadership = controllers.Leadership(engine)
    assert leadership.try_acquire()
    watching = Supervisor(engine, settings, leadership, "c", threading.Event(), journals=settings.home)
    running = "SELECT 1 FROM attempts WHERE state = 'running'"

    def an_hour_goes_by() -> None:
        """As the ledger's clock has it: what was written before is an hour older."""
        with engine.begin() as connection:
            connection.execute(text("UPDATE attempts SET heartbeat_at = heartbeat_at - interval '1 hour'"))
        watching._looked_at = watching._looked_at and watching._looked_at - timedelta(hours=1)
        watching._steady_since -= timedelta(hours=1)

    watching._look()
    an_hour_goes_by()
    watching._look()
    assert rows(engine, running)
    # Who says nothing from then on, is gone.
    until(lambda: watching._look() or not rows(engine, running))
    leadership.release()


def test_it_watches_on_whatever_its_callers_raise(
    settings: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A terminal that is gone must not keep anyone from stopping, nor dead workers' segments from being free."""
    with Session(engine) as session:
        controllers.register(session, "c")
        session.commit()
    leadership = controllers.Leadership(engine)
    assert leadership.try_acquire()
    stopping = threading.Event()
    called: list[None] = []

    def report(session: Session) -> None:
        called.append(None)
        raise BrokenPipeError("nobody reads")

    told = "SELECT 1 FROM controllers WHERE stopping"
    with Supervisor(
        engine, settings, leadership, "c", stopping, journals=settings.home, each_second=[report]
    ):
        until(lambda: called)
        stopping.set()
        until(lambda: rows(engine, told) and len(called) > 1)
    leadership.release()
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_workers_that_only_die_are_not_started_for_ever_and_hold_up_no_other_place(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "LONGEST_PAUSE", 0.0)
    with Session(engine) as session:
        plant(session, "doomed", [segment("one", None, 0, 10)], [run("one")], pool="small")
        plant(session, "well", [segment("two", None, 0, 10)], [run("two")], pool="large")
        controllers.register(session, "c")
        session.commit()
    leadership = controllers.Leadership(engine)
    assert leadership.try_acquire()
    stopping = threading.Event()
    room = cast(Any, SimpleNamespace(workers=lambda place, placed: 1))
    searcher = searching.LedgerSearcher(engine, sweep_ids=None, placing=room, stopping=stopping)
    died: list[str] = []

    def one_more() -> bool:
        """What Tune does with a worker that the memory monitor kills before it claims anything."""
        with engine.begin() as connection:  # it need not wait for its next try
            connection.execute(text("UPDATE segments SET retry_at = NULL"))
        searcher.wake()
        trial = f"trial{len(died)}"
        given = searcher.suggest(trial)
        if isinstance(given, dict) and given["segment"] == "one":
            died.append(trial)
            searcher.lost_trials[trial] = MONITOR
            searcher.on_trial_complete(trial, error=True)
            until(lambda: not searcher.lost_trials)
        return bool(rows(engine, "SELECT 1 FROM runs WHERE state = 'failed'"))

    try:
        with Supervisor(
            engine, settings, leadership, "c", stopping, journals=settings.home / "spool"
        ) as watching:
            watching.searcher = searcher
            until(one_more)
    finally:
        leadership.release()
    assert len(died) == USELESS_STARTS
    states = rows(
        engine, "SELECT sweeps.name, sweeps.state, runs.state FROM runs JOIN sweeps ON sweep_id = sweeps.id"
    )
    assert sorted(tuple(row) for row in states) == [
        ("doomed", "completed", "failed"),
        ("well", "active", "pending"),
    ]
    with Session(engine) as session:
        last, *earlier = runs.failed_attempts(session, "doomed")
        assert len(earlier) == USELESS_STARTS - 1
        assert "10 workers in a row died on pool 'small' before they took anything up" in last["reason"]
        assert "running low on memory" in last["reason"]
        assert {attempt["kind"] for attempt in (last, *earlier)} == {"memory"}
        # Whoever has made room asks for it.
        assert sweeps.retry(session, "doomed") == 1
