"""One run by one process, and by two that share its batches: steps a second of wall time, and whether the losses agree.

    python benchmarks/parallel_speed.py --width 128 --steps 60

Both have the same `micro_batch`, so the same bits. Each is a job of its own (`python -m trainer`), in turn. It needs
two cores that nobody else uses: two processes wait for each other at every step.
"""

from __future__ import annotations

import argparse
import json
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
        pruning=Pruning(sparsity=0.75, start=10, end=steps // 10 * 10, every=10),
        numerics=Numerics(micro_batch=batch // 2),
    )


def trained(program: Program, data: Prepared, folder: Path, processes: int) -> dict[str, Any]:
    """The result of the run by so many processes. Its clock stands still while they start, and during evaluation."""
    job = {
        "program": program.to_dict(),
        "data": str(data.path),
        "output": str(folder / f"by-{processes}"),
        "processes": processes,
    }
    file = folder / f"job-{processes}.json"
    file.write_text(json.dumps(job))
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(DataSource(max_tokens=500_000), Path(folder))
        print(f"{'width':>6} {'one, steps/s':>13} {'two, steps/s':>13} {'ratio':>6}  same loss")
        for width in arguments.width:
            program = program_of(data, width, arguments.batch, arguments.steps)
            place = Path(folder) / str(width)
            place.mkdir()
            one, two = (trained(program, data, place, processes) for processes in (1, 2))
            speeds = [result["steps_per_second"] for result in (one, two)]
            print(
                f"{width:6} {speeds[0]:13.2f} {speeds[1]:13.2f} {speeds[1] / speeds[0]:6.2f}"
                f"  {one['loss'] == two['loss']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
