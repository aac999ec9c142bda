"""How long a sweep of 10,000 cells takes from its YAML to the ledger, and to plan again, and how much memory.

Aim: validated, planned and in the ledger within 5 s and 1 GiB; a second `lacuna plan` within 2 s. Beside the wall time
stands the CPU time of this process and of Postgres, which do not depend on what else the machine does.

    python -m benchmarks.plan_scale [--cells 10000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from ledger.engine import open_ledger
from ledger.settings import Settings
from orchestrator.submit import submit_text

SPEC = """\
name: large
model: {{family: t5, d_model: 64, heads: 4, d_ff: 170, encoder_layers: 2, decoder_layers: 2, shape_rule: linear}}
data: {{source: {corpus}, sequence_length: 64, validation_share: 0.2}}
grid:
  nonzero_params: {sizes}
  sparsity: [0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.9375]
  steps: [80, 160, 240, 320, 400, 480, 560, 640, 720, 800]
  seed: {seeds}
pruning: {{every: 10}}
training: {{batch_size: 8, learning_rate: {{base: 0.25, warmup: 40}}}}
"""


def text(home: Path, cells: int) -> str:
    """A spec of so many cells (a multiple of 1,000), on a corpus of its own."""
    corpus = home / "corpus"
    corpus.mkdir()
    for index in range(60):
        (corpus / f"{index}.txt").write_text(
            f"{index} " + "the quick brown fox jumps over the lazy dog. " * 40
        )
    sizes = [round(16e3 * 1.5**step) for step in range(10)]
    return SPEC.format(corpus=corpus, sizes=sizes, seeds=list(range(cells // 1000)))


def server_seconds(home: Path) -> float:
    """CPU seconds of the Postgres processes below a home."""
    spent = 0.0
    for process in psutil.process_iter(["name", "cpu_times"]):
        if process.info["name"] == "postgres" and process.info["cpu_times"]:
            try:
                if process.cwd().startswith(str(home)):
                    spent += process.info["cpu_times"].user + process.info["cpu_times"].system
            except psutil.Error:
                continue  # ended meanwhile
    return spent


def timed(action: Any, home: Path) -> tuple[Any, dict[str, float]]:
    """What it returns, and how long it took."""
    wall, cpu, server = time.perf_counter(), time.process_time(), server_seconds(home)
    value = action()
    return value, {
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "postgres_cpu_s": round(server_seconds(home) - server, 2),
    }


def plan_command(spec: Path, settings: Settings) -> subprocess.CompletedProcess[bytes]:
    """`lacuna plan SPEC --json`, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.command.main", "plan", str(spec), "--json"],
        env={**os.environ, "LACUNA_HOME": str(settings.home), "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        check=True,
    )


def main() -> None:
    """One home, one embedded Postgres: a sweep of one cell first, so that data and server are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="lp-"))
    settings = Settings(home=home / "home")
    spec = text(home, given.cells)
    (home / "large.yaml").write_text(spec)
    engine = open_ledger(settings)
    try:
        submit_text(
            settings,
            engine,
            spec.replace("name: large", "name: one").replace(str(list(range(given.cells // 1000))), "[99]"),
        )
        submitted, first = timed(lambda: submit_text(settings, engine, spec), home)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        plan_command(home / "large.yaml", settings)  # the first leaves byte code, as wherever it is installed
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        planned = plan_command(home / "large.yaml", settings)
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        document = json.loads(planned.stdout)
    finally:
        engine.dispose()
        shutil.rmtree(home, ignore_errors=True)
    print(
        json.dumps(
            {
                "cells": document["runs"],
                "segments": document["segments"],
                "outcome": submitted.outcome,
                "into_ledger": first,
                "memory_mib": round(memory / 2**20),
                "plan_command": {
                    "wall_s": round(wall, 2),
                    "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
