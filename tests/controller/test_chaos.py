"""Controllers in processes of their own, killed as users and machines kill them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine

from ledger.engine import connect, ledger_url
from ledger.settings import Settings
from tests.controller import tiny
from tests.controller.processes import ControllerProcess
from tests.controller.quiet import quiet_losses
from tests.controller.watching import completed_twice, losses, rows, scene, until

# Minutes with both cores: `make test` has kills of its own in e2e, test_packs, test_serving and test_controller.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

#: Training of a few seconds a segment, so that there is a middle to kill it in.
LONG = {"steps": "[400, 800]", "sparsity": "[0, 0.5]", "checkpoint_every": 40}

Starter = Callable[[Settings], ControllerProcess]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts controllers for the sweep `tiny`, and ends those that are left with the test."""
    started: list[ControllerProcess] = []

    def start_one(settings: Settings) -> ControllerProcess:
        started.append(ControllerProcess(settings))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()


def training(engine: Engine) -> bool:
    """Whether a worker has left a checkpoint in a segment and has far to go in it."""
    return bool(
        rows(
            engine,
            """SELECT 1 FROM attempts JOIN segments ON key = segment_key
               WHERE attempts.state = 'running' AND progress_step BETWEEN start_step AND end_step - 100""",
        )
    )


def test_interrupted_killed_and_taken_over_the_losses_are_those_of_a_quiet_sweep(
    settings: Settings, engine: Engine, start: Starter
) -> None:
    tiny.submit(settings, **LONG)
    processes: list[ControllerProcess] = []

    def saw() -> str:
        return "\n".join([scene(engine, settings.home), *(process.tells() for process in processes)])

    def wait(condition: Callable[[], Any]) -> Any:
        return until(condition, saw=saw)

    processes.append(first := start(settings))
    wait(lambda: training(engine))
    first.interrupt()
    assert first.says() == "interrupted"
    assert not rows(engine, "SELECT 1 FROM attempts WHERE state = 'running'")
    assert rows(engine, "SELECT 1 FROM attempts WHERE state = 'stopped'"), saw()
    assert rows(engine, "SELECT state FROM sweeps") == [("active",)], saw()
    assert rows(engine, "SELECT ended_at IS NOT NULL FROM controllers") == [(True,)]

    processes.append(leader := start(settings))
    wait(lambda: rows(engine, "SELECT 1 FROM controllers WHERE ended_at IS NULL"))
    processes.append(waiting := start(settings))
    wait(lambda: training(engine))
    leader.kill()
    wait(lambda: rows(engine, "SELECT 1 FROM controllers HAVING count(*) = 3"))
    assert waiting.says() == "ok", saw()

    assert rows(engine, "SELECT 1 FROM attempts WHERE kind = 'fenced'"), saw()
    assert completed_twice(engine) == []
    disturbed = losses(engine)
    assert len(disturbed) == 4
    assert disturbed == quiet_losses(settings)


def test_kill_9_of_everything_with_the_embedded_postgres_then_start_again(home: Path, start: Starter) -> None:
    quiet = Settings(home=home)
    tiny.submit(quiet, sparsity="[0.5]", steps="[400]", checkpoint_every=40)
    first = start(quiet)
    url = ledger_url(quiet)
    engine = connect(url)
    until(lambda: training(engine), saw=lambda: scene(engine, home) + first.tells())
    pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split("\n")[0])
    server = psutil.Process(pid)
    backends = server.children(recursive=True)
    server.kill()
    first.kill()
    psutil.wait_procs(backends, timeout=60)
    engine.dispose()

    assert start(quiet).says() == "ok"
    engine = connect(ledger_url(quiet))
    assert completed_twice(engine) == []
    steps = rows(
        engine,
        "SELECT step FROM metric_points JOIN run_segments USING (segment_key) WHERE name = 'loss' ORDER BY step",
    )
    assert [step for (step,) in steps] == list(range(5, 401, 5))
    engine.dispose()
    shutil.rmtree(home / "storage")
