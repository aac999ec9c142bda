"""One run by one process, and by two that share its batches: steps a second of wall time, and whether the losses agree.

    python benchmarks/parallel_speed.py --width 128 --steps 60 --rounds 3

Both have the same `micro_batch`, so the same bits. Each is a job of its own (`python -m trainer`), in turn, round after
round; the ratio is the median of the rounds' own. Wall time counts, since two processes wait for each other at every
step: it needs two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainer.data import DataSource, Prepared, prepare
from trainer.program import DataStream, LearningRate, Numerics, Program, Pruning
from trainer.shapes import shape_for


def program_of(data: Prepared, width: int, batch: int, steps: int) -> Program:
    """T5 with 2 + 2 layers, pruned to 75 %, batches of two parts."""
    model = {
        "d_model": width,
        "heads": 2,
        "d_ff": 8 * width // 3,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "vocab_size": 384,
    }
    return Program(
        family="t5",
        shape=shape_for("t5", 12 * width**2 * 4, model).dims,
        data=DataStream(digest=data.digest, sequence_length=96, evaluation_batches=1),
        batch_size=batch,
        steps=steps,
        learning_rate=LearningRate(schedule="constant", base=1e-3, warmup=1),
        pruning=Pruning(sparsity=0.75, start=10, end=(steps - 1) // 10 * 10, every=10),
        numerics=Numerics(micro_batch=batch // 2),
    )


def trained(program: Program, data: Prepared, processes: int) -> dict[str, Any]:
    """The result of the run by so many processes. Its clock stands still while they start, and during evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "program": program.to_dict(),
            "data": str(data.path),
            "output": folder,
            "processes": processes,
        }
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job))
        return _result(file)


def _result(file: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "trainer", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["result"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(DataSource(max_tokens=500_000), Path(folder))
        print(
            f"{'width':>6} {'one, steps/s':>13} {'two, steps/s':>13} {'ratio':>6} {'of rounds':>12}  same loss"
        )
        for width in arguments.width:
            program = program_of(data, width, arguments.batch, arguments.steps)
            rounds = [
                [trained(program, data, processes) for processes in (1, 2)] for _ in range(arguments.rounds)
            ]
            speeds = [[result["steps_per_second"] for result in pair] for pair in rounds]
            one, two = (statistics.median(column) for column in zip(*speeds, strict=True))
            ratios = [by_two / by_one for by_one, by_two in speeds]
            same = len({result["loss"] for pair in rounds for result in pair}) == 1
            print(
                f"{width:6} {one:13.2f} {two:13.2f} {statistics.median(ratios):6.2f}"
                f" {f'{min(ratios):.2f}–{max(ratios):.2f}':>12}  {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
