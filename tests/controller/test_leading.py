"""Who leads: a leader that lives is followed, one that only holds the lock is not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger import controllers, sweeps
from ledger.settings import Settings
from orchestrator.controller import lead
from orchestrator.controller.own_folder import own_folder
from tests.controller.watching import rows, until
from tests.ledger.forests import plant


@pytest.fixture
def follower(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A call of `run` that would lead."""
    monkeypatch.setattr(lead, "SILENT_LOOKS", 20)
    monkeypatch.setattr(lead, "WAIT_SECONDS", 0.05)
    return lead._Job(
        engine=engine,
        settings=settings,
        leadership=controllers.Leadership(engine),
        stopping=threading.Event(),
        sweep_ids=None,
        names=None,
        cores=1,
        placing=cast(Any, None),
        on_progress=None,
    )


def test_a_leader_whose_process_was_stopped_is_deposed(engine: Engine, follower: Any) -> None:
    stopped = controllers.Leadership(engine)
    assert stopped.try_acquire()
    assert lead._follow(follower, None)
    assert follower.leadership.still_held()
    with pytest.raises(DBAPIError):  # so it learns of it when it goes on
        stopped.still_held()
    stopped.release()
    follower.leadership.release()


def test_a_leader_that_lives_is_followed(engine: Engine, follower: Any) -> None:
    leader = controllers.Leadership(engine)
    assert leader.try_acquire()
    following = threading.Thread(target=lead._follow, args=[follower, None])
    following.start()
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        assert leader.still_held()
        return asked > 60  # three times as long as one that is silent would lead

    until(ask)
    follower.stopping.set()
    following.join()
    assert leader.still_held()
    leader.release()
    follower.leadership.release()


def test_a_leader_that_lost_its_place_follows_and_leads_again(settings: Settings, engine: Engine) -> None:
    with Session(engine) as session:
        plant(session)
        sweeps.pause(session, "sweep")  # so that there is nothing to train
        session.commit()
    outcomes: list[lead.Outcome] = []
    running = threading.Thread(target=lambda: outcomes.append(lead.run(settings, ["sweep"])))
    running.start()
    until(lambda: rows(engine, "SELECT 1 FROM controllers"))
    faster = controllers.Leadership(engine)

    def overtake() -> bool:
        with Session(engine) as session, session.begin():
            if (sign := controllers.sign_of_life(session)) is not None:
                controllers.depose(session, sign)
        return faster.try_acquire()

    until(overtake)
    until(lambda: rows(engine, "SELECT 1 FROM controllers WHERE ended_at IS NOT NULL"))
    faster.release()
    until(lambda: rows(engine, "SELECT 1 FROM controllers HAVING count(*) = 2"))
    with Session(engine) as session:
        sweeps.cancel(session, "sweep")
        session.commit()
    running.join(60)
    assert not running.is_alive()
    assert not outcomes[0].interrupted


def test_each_has_a_folder_of_its_own_and_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    with own_folder(tmp_path) as one, own_folder(tmp_path) as other:
        assert one != other
        for folder in (one, other):
            (folder / "sub").mkdir(parents=True)
    assert not one.exists()
    (one / "left").mkdir(parents=True)
    with own_folder(tmp_path) as again:
        assert again == one
        assert not again.exists()
