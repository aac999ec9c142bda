"""The trainer as a process of its own: it is really started, really signalled, and its exit codes are looked at."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import checksums
from trainer import checkpoint
from trainer.data import Prepared
from trainer.metrics import NoSink
from trainer.program import LearningRate, Program
from trainer.segment import train_segment

Make = Callable[..., Program]

STEPS = 160


def job(path: Path, program: Program, prepared: Prepared, /, **options: Any) -> Path:
    written = {
        "program": program.to_dict(),
        "data": str(prepared.path),
        "output": str(path / "out"),
        **options,
    }
    file = path / "job.json"
    file.write_text(json.dumps(written))
    return file


def started(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, the lines that were not read yet, standard error."""
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def test_sigterm_in_the_middle_writes_a_state_from_which_the_result_is_the_same(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    chosen = program(steps=STEPS, sparsity=0.75)
    file = job(tmp_path, chosen, prepared, log_every=1)
    process = started(file)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] == 5:
            process.send_signal(signal.SIGTERM)
            break
    code, lines, err = ended(process)
    assert code == 3, f"exit code {code}, standard error: {err}"
    step = lines[-1]["stopped"]["step"]
    assert 5 <= step < STEPS
    state = checkpoint.load(lines[-1]["stopped"]["checkpoint"], chosen)
    assert state.step == step

    code, lines, err = ended(started(file))
    assert code == 0, f"exit code {code}, standard error: {err}"
    assert min(line["step"] for line in lines[:-1]) == step + 1, "it goes on where it stopped"
    output = str(tmp_path / "alone")
    alone = train_segment(chosen, 0, STEPS, data=prepared.path, parent=None, output=output, sink=NoSink())
    assert lines[-1]["result"]["loss"] == alone.loss
    assert checksums(lines[-1]["result"]["checkpoint"]) == checksums(alone.checkpoint)


def test_a_run_that_diverges_has_an_exit_code_of_its_own(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    wild = program(steps=20, learning_rate=LearningRate(base=1e6, warmup=10))
    code, lines, err = ended(started(job(tmp_path, wild, prepared)))
    assert code == 4, f"exit code {code}, standard error: {err}"
    assert 0 < lines[-1]["diverged"]["step"] <= 20


def test_a_run_without_its_data_fails_and_says_why(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    file = job(tmp_path, program(steps=4), prepared, data=str(tmp_path / "gone"))
    code, lines, err = ended(started(file))
    assert (code, lines) == (1, [])
    assert "DataError" in err
    assert str(tmp_path / "gone") in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 3}, "has the unknown key 'steps': use program, data, output, start, end"),
        ({"data": 3}, "has data: 3, which is no str"),
        ({"end": True}, "has end: True, which is no int"),
        ({"program": {"family": "t5"}}, "has a program that cannot be carried out"),
    ],
)
def test_a_wrong_job_is_told_in_one_line(
    changes: dict[str, Any], said: str, program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    from trainer.__main__ import JobError, read_job

    with pytest.raises(JobError) as refused:
        read_job(job(tmp_path, program(steps=4), prepared, **changes))
    assert said in str(refused.value)


def test_a_job_that_is_no_json_ends_the_process_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    code, lines, err = ended(started(tmp_path / "job.json"))
    assert (code, lines) == (2, [])
    assert "is no valid JSON" in err
