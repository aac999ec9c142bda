"""Controllers that stay, and runs that hand their sweeps over to them: real processes on one ledger."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger.settings import Settings
from orchestrator.submit import submit_text
from tests.controller import tiny
from tests.controller.processes import ControllerProcess
from tests.controller.watching import completed_twice, rows, scene, until

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def started() -> Iterator[list[ControllerProcess]]:
    """Processes to end with the test."""
    processes: list[ControllerProcess] = []
    yield processes
    for process in processes:
        process.kill()


def test_one_leads_others_hand_over_or_stand_by_and_take_over(
    settings: Settings, engine: Engine, started: list[ControllerProcess]
) -> None:
    def start(sweep: str | None) -> ControllerProcess:
        started.append(ControllerProcess(settings, sweep))
        return started[-1]

    def saw() -> str:
        return "\n".join([scene(engine, settings.home), *(process.tells() for process in started)])

    def wait(condition: Callable[[], Any]) -> Any:
        return until(condition, saw=saw)

    def completed(sweep: str) -> bool:
        return rows(engine, "SELECT state FROM sweeps WHERE name = :name", name=sweep) == [("completed",)]

    # One controller serves all sweeps, the urgent ones first: segments that wait for no other, in both.
    for name, priority, sizes in (("low", 0, "[4000, 5000, 6000]"), ("high", 7, "[7000, 8000, 9000, 10000]")):
        spec = tiny.spec_text(settings.home, name, nonzero_params=sizes, sparsity="[0]", steps="[20]")
        submit_text(settings, engine, spec.replace("execution: {", f"execution: {{priority: {priority}, "))
    leader = start(None)
    wait(lambda: rows(engine, "SELECT 1 FROM attempts"))

    # `lacuna run` beside a controller that stays: its sweep is trained there, and it ends with it.
    tiny.submit(settings, "two", sparsity="[0]", steps="[40]")
    assert start("two").says() == "ok", saw()
    wait(lambda: completed("low") and completed("high"))
    taken = [
        name
        for (name,) in rows(
            engine,
            """SELECT sweeps.name FROM attempts JOIN runs ON tip_key = segment_key
               JOIN sweeps ON sweeps.id = sweep_id WHERE sweeps.name IN ('low', 'high') ORDER BY attempts.id""",
        )
    ]
    assert sorted(taken) == ["high"] * 4 + ["low"] * 3
    # Of two workers one may take the last of the urgent ones while the other finds them all taken.
    assert taken[:3] == ["high"] * 3, saw()
    assert rows(engine, "SELECT count(*) FROM controllers") == [(1,)]

    # It had nothing to do and takes up what comes. It dies in the middle: whoever waits takes over.
    standby = start(None)
    tiny.submit(settings, "three", sparsity="[0.5]", steps="[800]", checkpoint_every=40)
    follower = start("three")
    wait(
        lambda: rows(
            engine, "SELECT 1 FROM attempts JOIN segments ON key = segment_key WHERE progress_step > 200"
        )
    )
    wait(lambda: rows(engine, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"))
    leader.kill()
    assert follower.says() == "ok", saw()
    assert rows(engine, "SELECT 1 FROM attempts WHERE kind = 'fenced'"), saw()
    assert completed_twice(engine) == []

    # Who stands by outlives the follower, and ends in good order when told to.
    tiny.submit(settings, "four", sparsity="[0.5]", steps="[60]")
    wait(lambda: completed("four"))
    standby.process.send_signal(signal.SIGTERM)
    assert standby.says().startswith("stopped at checkpoints; 0 of 5"), saw()
    assert standby.process.returncode == 0
    assert rows(
        engine, "SELECT 1 FROM controllers WHERE process = :pid AND ended_at IS NOT NULL", pid=standby.pid
    )
