"""kill -9 at every named point, one after the other, on real processes; then everything must be as if nothing was."""

from __future__ import annotations

import functools
import importlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger.engine import connect, ledger_url
from ledger.settings import Settings
from tests.chaos.points import PLACES, SCRIPT
from tests.controller import tiny
from tests.controller.processes import ControllerProcess
from tests.controller.quiet import quiet_losses
from tests.controller.watching import completed_twice, rows, scene

pytestmark = pytest.mark.timeout(3600)

#: Seconds that a controller may live without a kill or an end: then the test says what it sees.
SILENCE = 900.0

#: Sweeps, one after the other, that take the kills; each is a few seconds of training.
SWEEPS = 12

GRID = {"sparsity": "[0, 0.5, 0.75]", "steps": "[60, 120]", "checkpoint_every": 10}


@pytest.mark.chaos
def test_losses_points_and_laws_are_those_of_a_quiet_sweep(home: Path) -> None:
    settings = Settings(home=home)
    folder = home / "chaos"
    folder.mkdir()
    (folder / "places.json").write_text(json.dumps(PLACES))
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    sweeps: list[str] = []
    while kills(folder) < len(SCRIPT):
        assert len(sweeps) < SWEEPS, (
            f"after {len(sweeps)} sweeps the kill {SCRIPT[kills(folder)]} was not reached"
        )
        sweeps.append(f"tiny{len(sweeps)}")
        # Another size each time: nothing of an earlier sweep can be reused.
        tiny.submit(settings, sweeps[-1], nonzero_params=f"[{4000 + 1000 * len(sweeps)}]", **GRID)
        carry_out(settings, folder, sweeps[-1])
    engine = connect(ledger_url(settings))
    assert rows(engine, "SELECT name FROM sweeps WHERE state <> 'completed'") == []
    assert completed_twice(engine) == []
    assert lacking_points(engine) == []
    disturbed = {row.name: row.loss for row in rows(engine, "SELECT name, loss FROM runs")}
    engine.dispose()
    assert disturbed == quiet_losses(Settings(home=home, database_url=ledger_url(settings)))


def test_each_point_is_a_function_that_is_there() -> None:
    for module, path, *_ in PLACES:
        functools.reduce(getattr, path.split("."), importlib.import_module(module))
    assert {point for point, _ in SCRIPT} <= {point for place in PLACES for point in place[2:]}
    assert len({point for point, _ in SCRIPT}) >= 25


def carry_out(settings: Settings, folder: Path, sweep: str) -> None:
    """Start controllers for the sweep until one sees its end."""
    while True:
        controller = ControllerProcess(settings, sweep, chaos=folder)
        killed, since = kills(folder), time.monotonic()
        while controller.alive:
            if kills(folder) != killed:
                killed, since = kills(folder), time.monotonic()
            if time.monotonic() - since > SILENCE:
                engine = connect(ledger_url(settings))
                tale = f"{scene(engine, settings.home)}\n{controller.tells()}"
                controller.kill()
                raise AssertionError(
                    f"nothing for {SILENCE:g} s after kill {killed}, {SCRIPT[killed - 1]}\n{tale}"
                )
            time.sleep(0.1)
        said = controller.process.communicate()[0].strip()
        controller.kill()
        if said == "ok":
            return


def kills(folder: Path) -> int:
    """How many were done."""
    return len(list(folder.glob("done-*")))


def lacking_points(engine: Engine) -> list[Any]:
    """Steps at which a run should have logged and has no loss, or more than one."""
    return rows(
        engine,
        """SELECT runs.name, step, count(value)
           FROM runs JOIN segments ON key = tip_key, generate_series(5, end_step, 5) AS step
           LEFT JOIN LATERAL (
               SELECT value FROM metric_points JOIN run_segments USING (segment_key)
               WHERE run_id = runs.id AND metric_points.step = step.step AND metric_points.name = 'loss') found ON true
           GROUP BY runs.id, runs.name, step HAVING count(value) <> 1""",
    )
