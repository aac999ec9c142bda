"""A machine that is about to go: what its workers do while the hook of its Pod runs, which here is run by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger.settings import Settings
from orchestrator import controller
from orchestrator.leaving import busy, leaving, noticed
from tests.controller import tiny
from tests.controller.watching import completed_twice, rows, scene, until


@pytest.mark.chaos
@pytest.mark.usefixtures("ray")
def test_workers_write_their_state_before_their_machine_goes(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    # Long enough for three heartbeats; no checkpoint would be written on the way.
    tiny.submit(settings, sparsity="[0]", steps="[2500]", checkpoint_every=10_000)
    free, back = tmp_path / "free", tmp_path / "back"

    def saw() -> str:
        return scene(engine, settings.home)

    def hook() -> None:
        until(lambda: rows(engine, "SELECT 1 FROM attempts WHERE step > 0"), saw=saw)
        command = f"touch {free}; while [ ! -e {back} ]; do sleep 0.1; done; exit 7"
        hook = [sys.executable, "-m", "orchestrator.leaving", "--within", "120", "--", "sh", "-c", command]
        process = subprocess.Popen(hook, env={**os.environ, "LACUNA_HOME": str(settings.home)})
        try:
            until(free.exists, saw=saw)
            found.extend(rows(engine, "SELECT state FROM attempts"))
            found.extend(rows(engine, "SELECT progress_step FROM segments"))
        finally:
            back.touch()
            codes.append(process.wait())

    found: list[object] = []
    codes: list[int] = []
    going = threading.Thread(target=hook)
    going.start()
    outcome = controller.run(settings, ["tiny"], max_concurrent=1)
    going.join()
    assert outcome.ok, saw()
    # One attempt, ended at a checkpoint; none was begun while the machine went. The machine stayed, and they went on.
    attempt, segment = found
    assert (attempt.state, 0 < segment.progress_step < 2500) == ("stopped", True), saw()  # type: ignore[attr-defined]
    assert codes == [7]
    started = rows(engine, "SELECT started_step FROM attempts WHERE state = 'completed'")
    assert [each.started_step for each in started] == [segment.progress_step]  # type: ignore[attr-defined]
    assert completed_twice(engine) == []


def test_a_worker_that_does_not_come_to_an_end_is_not_waited_for(tmp_path: Path) -> None:
    assert not noticed(tmp_path)
    with busy(tmp_path), leaving(tmp_path, within=0.5) as free:
        assert not free
        assert noticed(tmp_path)
    assert not noticed(tmp_path)
    with leaving(tmp_path, within=0.5) as free:
        assert free
        with busy(tmp_path):  # who begins now does not wait for the hook's end: it sees the notice
            assert noticed(tmp_path)
