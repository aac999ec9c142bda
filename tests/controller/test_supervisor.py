"""What the supervisor makes of workers that died: from what Ray tells of them to the ledger. No Ray here."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, controllers
from ledger.models import Attempt, AttemptEnd
from ledger.settings import Settings
from orchestrator.controller.supervisor import Supervisor
from tests.controller.watching import until
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
    searcher = SimpleNamespace(lost_trials={"one": MONITOR, "two": OTHERWISE}, wake=lambda: None)
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
