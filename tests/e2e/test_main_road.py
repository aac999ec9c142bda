"""The whole road with the real command: a YAML sweep in, fitted coefficients out; killed in the middle, the same."""

from __future__ import annotations

import email
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text

from ledger import embedded
from ledger.engine import ledger_url
from ledger.settings import Settings

SPEC = """\
name: road
model: {family: t5, d_model: 64, heads: 2, d_ff: 170, encoder_layers: 1, decoder_layers: 1, shape_rule: linear}
data:
  source: CORPUS
  validation_share: 0.2
  sequence_length: 32
  evaluation_batches: 4
  evaluation_batch_size: 16
grid:
  nonzero_params: [4e3, 8e3, 16e3]
  sparsity: [0, 0.5, 0.75]
  steps: [40, 80, 160]
pruning: {every: 10}
training: {batch_size: 8, learning_rate: {base: 0.25, warmup: 20}}
execution: {checkpoint_every: 10, evaluate_every: 20, log_every: 5}
law: {params: linear}
"""


def lacuna(home: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.command.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home), timeout=280)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LACUNA_")}
    return {**kept, "LACUNA_HOME": str(home)}


def rows(home: Path, statement: str) -> list[Any]:
    engine = create_engine(ledger_url(Settings(home=home)))
    with engine.connect() as connection:
        found = connection.execute(text(statement)).all()
    engine.dispose()
    return list(found)


def losses(home: Path) -> dict[str, float]:
    document = json.loads(lacuna(home, "runs", "road", "--json").stdout)
    return {run["name"]: run["loss"] for run in document["runs"]}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec on a package of the standard library: text that every machine has and nobody edits."""
    folder = tmp_path_factory.mktemp("road")
    path = folder / "road.yaml"
    path.write_text(SPEC.replace("CORPUS", str(Path(email.__file__).parent)))
    return path


@pytest.fixture(scope="module")
def undisturbed(spec: Path) -> Iterator[Path]:
    """A home in which the sweep ran from beginning to end."""
    yield from _home(spec, lambda home: lacuna(home, "run", str(spec)))


def _home(spec: Path, fill: Any) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lacuna-e2e-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        fill(home)
        yield home
        embedded.stop(home / "postgres")


def test_every_run_completes_and_the_law_is_fitted(undisturbed: Path) -> None:
    found = losses(undisturbed)
    assert len(found) == 27
    assert all(1 < loss < 7 for loss in found.values())
    law = json.loads(lacuna(undisturbed, "law", "road", "--json").stdout)
    assert law["runs"] == 27
    assert set(law["coefficients"]) == {"a_S", "b_S", "c_S", "b_N", "a_D", "b_D", "c"}
    assert set(law["intervals"]) == set(law["coefficients"])


def test_runs_record_both_counts_of_parameters_and_what_pruning_reached(undisturbed: Path) -> None:
    document = json.loads(lacuna(undisturbed, "runs", "road", "--json").stdout)
    for run in document["runs"]:
        result = next(
            row.result
            for row in rows(undisturbed, "SELECT name, result FROM runs")
            if row.name == run["name"]
        )
        assert result["sparsity_reached"] == pytest.approx(run["sparsity"], abs=0.003)
        assert result["nonzero_params"] == pytest.approx(run["linear_nonzero_params"], rel=0.01)
        assert run["nominal_nonzero_params"] == pytest.approx(run["linear_nonzero_params"], rel=0.25)


def test_a_stretch_that_runs_share_is_trained_once(undisturbed: Path) -> None:
    plan = rows(undisturbed, "SELECT plan FROM sweeps")[0].plan
    trained = rows(undisturbed, "SELECT segment_key FROM attempts WHERE state = 'completed'")
    assert len(trained) == len({row.segment_key for row in trained}) == plan["segments"]
    steps = rows(undisturbed, "SELECT sum(end_step - start_step) AS steps FROM segments")[0].steps
    alone = rows(undisturbed, "SELECT sum((cell ->> 'steps')::int) AS steps FROM runs")[0].steps
    assert steps < alone


def test_a_question_gets_the_same_answer_from_the_sweep_and_from_its_law_file(
    undisturbed: Path, tmp_path: Path
) -> None:
    law = tmp_path / "law.json"
    law.write_text(lacuna(undisturbed, "law", "road", "--json").stdout)
    for question in (
        ["predict", "--sparsity=0.75", "--params=16e3", "--data=1e5", "--json"],
        ["optimum", "--params=16e3", "--flops=1e11", "--json"],
    ):
        of_sweep = json.loads(lacuna(undisturbed, *question, "--sweep", "road").stdout)
        assert json.loads(lacuna(undisturbed, *question, "--law", str(law)).stdout) == of_sweep


def test_running_it_again_trains_nothing(undisturbed: Path, spec: Path) -> None:
    before = rows(undisturbed, "SELECT count(*) AS n FROM attempts")[0].n
    again = lacuna(undisturbed, "run", str(spec))
    assert "27 of 27 runs done" in again.stdout
    assert rows(undisturbed, "SELECT count(*) AS n FROM attempts")[0].n == before


def test_killed_in_the_middle_it_finishes_with_the_same_bits_and_nothing_done_twice(
    undisturbed: Path, spec: Path
) -> None:
    def killed_and_run_again(home: Path) -> None:
        command = [sys.executable, "-m", "orchestrator.command.main", "run", str(spec)]
        first = subprocess.Popen(
            command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Once three segments are done, some are half done: that is the moment.
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.3)
            if (home / "storage" / "segments").exists() and completed(home) >= 3:
                break
        tree = psutil.Process(first.pid).children(recursive=True)
        for process in [psutil.Process(first.pid), *tree, *postgres_of(home)]:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        first.wait(30)
        assert completed_files(home) < 27
        lacuna(home, "run", str(spec))

    for home in _home(spec, killed_and_run_again):
        assert losses(home) == losses(undisturbed)
        twice = rows(
            home,
            "SELECT segment_key FROM attempts WHERE state = 'completed' GROUP BY segment_key HAVING count(*) > 1",
        )
        assert twice == []
        # The kill is on record, and it cost no run its budget.
        states = {row.state for row in rows(home, "SELECT DISTINCT state FROM attempts")}
        assert states == {"completed", "lost"}


def completed(home: Path) -> int:
    return int(rows(home, "SELECT count(*) AS n FROM segments WHERE state = 'completed'")[0].n)


def completed_files(home: Path) -> int:
    """Segments with a published checkpoint, seen without a database."""
    return len(list((home / "storage" / "segments").glob("*/*")))


def postgres_of(home: Path) -> list[psutil.Process]:
    """The embedded server of that home, and only that."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(home / "postgres") in " ".join(process.info["cmdline"] or []):
            found += [process, *process.children(recursive=True)]
    return found
