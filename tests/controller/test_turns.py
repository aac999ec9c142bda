"""Sweeps whose runs take different numbers of one pool's devices: who is handed out, who makes room. No Ray here."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger.sweeps import Place, Placed
from orchestrator.controller import searcher as searching
from orchestrator.controller.searcher import LedgerSearcher
from tests.ledger.forests import plant, run, segment


class TwoDevices:
    """A pool of two devices; one named `missing` is refused."""

    def workers(self, place: Place, placed: Placed) -> int:
        if place.pool == "missing":
            raise searching.PoolError("there is no such pool")
        return 2 // place.devices

    def devices(self, place: Place) -> int:
        return 2


@pytest.fixture
def searcher(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> LedgerSearcher:
    monkeypatch.setattr(searching, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(searching, "LEAST_WALK_SECONDS", 0.0)
    placing = cast(Any, TwoDevices())
    return LedgerSearcher(engine, sweep_ids=None, placing=placing, stopping=threading.Event())


def submit(engine: Engine, name: str, **execution: Any) -> None:
    keys = [f"{name}{index}" for index in range(4)]
    with Session(engine) as session:
        plant(
            session,
            name,
            [segment(key, None, 0, 10) for key in keys],
            [run(key) for key in keys],
            **execution,
        )


def given(searcher: LedgerSearcher, trial: str) -> str | None:
    found = searcher.suggest(trial)
    return found["segment"] if isinstance(found, dict) else found


def test_runs_that_need_more_devices_get_them_when_it_is_their_turn(
    engine: Engine, searcher: LedgerSearcher
) -> None:
    submit(engine, "narrow", pool="cards")
    assert [given(searcher, trial) for trial in ("a", "b", "c")] == ["narrow0", "narrow1", None]
    assert not searcher.makes_room("a")
    submit(engine, "refused", pool="missing", priority=9)
    submit(engine, "elsewhere", pool="others", priority=8)
    assert given(searcher, "d") == "elsewhere0"
    assert not searcher.makes_room("a")
    submit(engine, "wide", pool="cards", devices_per_run=2, priority=1)
    given(searcher, "e")
    assert searcher.makes_room("a")
    searcher.on_trial_complete("a")
    # Its device stays free: otherwise two would never be.
    assert {given(searcher, trial) for trial in ("f", "g")} <= {"elsewhere1", None}
    assert searcher.makes_room("b")
    searcher.on_trial_complete("b")
    assert given(searcher, "h") == "wide0"
    assert not searcher.makes_room("h")
    assert given(searcher, "i") is None


def test_who_is_less_urgent_waits_however_many_devices_it_needs(
    engine: Engine, searcher: LedgerSearcher
) -> None:
    submit(engine, "narrow", pool="cards", priority=1)
    submit(engine, "wide", pool="cards", devices_per_run=2)
    assert [given(searcher, trial) for trial in ("a", "b", "c")] == ["narrow0", "narrow1", None]
    assert not searcher.makes_room("a")
    searcher.on_trial_complete("a")
    assert given(searcher, "d") == "narrow0"
