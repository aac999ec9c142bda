"""Our loop, dense and pruned, beside `transformers.Trainer`: same model, batches, precision and optimiser (AdamW).

    python benchmarks/train_speed.py --width 64 --steps 300

Each runs in a process of its own, in turn, on one thread. The time of a step is processor time, so that a busy machine
does not blur the comparison; evaluation and checkpoints are left out. Needs `accelerate` for the Trainer's row, which
is left out without it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.data import DataSource, Prepared, open_prepared, prepare
from trainer.program import DataStream, LearningRate, Optimizer, Program, Pruning
from trainer.shapes import shape_for

#: Steps that are not timed: allocators and caches settle.
WARM_UP = 30


def program_of(
    data: Prepared, width: int, heads: int, steps: int, *, pruned: bool, optimizer: str
) -> Program:
    """The quickstart's kind of model and batch; masks move every 30 steps for all of the timed steps."""
    model = {
        "d_model": width,
        "heads": heads,
        "d_ff": 8 * width // 3,
        "encoder_layers": 2,
        "decoder_layers": 2,
    }
    total = steps + WARM_UP + 31
    return Program(
        family="t5",
        shape=shape_for("t5", 12 * width**2 * 4, {**model, "vocab_size": 384}).dims,
        data=DataStream(digest=data.digest, sequence_length=96),
        batch_size=16,
        steps=total,
        optimizer=Optimizer(name=optimizer),
        learning_rate=LearningRate(schedule="constant", base=1e-3, warmup=0),
        pruning=Pruning(sparsity=0.75 if pruned else 0.0, start=0, end=(total - 1) // 30 * 30, every=30),
    )


def ours(program: Program, data: Prepared, steps: int) -> float:
    """Seconds of processor time a step of our loop."""
    from trainer.devices import device_for
    from trainer.run import Run

    run = Run(program, data, device_for("cpu"))
    for _ in range(WARM_UP):
        run.advance()
    begin = time.process_time()
    for _ in range(steps):
        run.advance()
    return (time.process_time() - begin) / steps


def theirs(program: Program, data: Prepared, steps: int) -> float:
    """Seconds of processor time a step of `transformers.Trainer`, the same batches through a plain data loader."""
    import torch
    import transformers
    from torch.utils.data import Dataset

    from trainer import models
    from trainer.data.batches import Batches

    torch.set_num_threads(1)
    batches = Batches(program.data, data, batch_size=program.batch_size, seed=program.seed)
    network = models.build(program.family, program.shape, program.seed, z_loss=0.0)

    class Rows(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return program.steps

        def __getitem__(self, index: int) -> dict[str, Any]:
            batch = batches.train(index)
            return {
                "input_ids": torch.from_numpy(batch["inputs"]),
                "labels": torch.from_numpy(batch["targets"]),
            }

    marks: dict[int, float] = {}

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks[state.global_step] = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=WARM_UP + steps,
            per_device_train_batch_size=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        transformers.Trainer(
            model=network.module,
            args=settings,
            train_dataset=Rows(),
            data_collator=lambda rows: rows[0],
            callbacks=[Clock()],
        ).train()
    return (marks[WARM_UP + steps] - marks[WARM_UP]) / steps


def child(row: str, data: str, width: int, heads: int, steps: int) -> None:
    """Measure one row and print it as JSON."""
    prepared = open_prepared(Path(data))
    optimizer = "adafactor" if "adafactor" in row else "adamw"
    program = program_of(prepared, width, heads, steps, pruned="pruned" in row, optimizer=optimizer)
    seconds = (theirs if row == "transformers.Trainer" else ours)(program, prepared, steps)
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        child(*arguments.row, arguments.width, arguments.heads, arguments.steps)
        return
    rows = ["ours, dense", "ours, pruned", "ours, dense, adafactor", "ours, pruned, adafactor"]
    if find_spec("accelerate") is not None:
        rows.append("transformers.Trainer")
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(DataSource(max_tokens=2_000_000), Path(folder))
        sizes = [
            "--width",
            str(arguments.width),
            "--heads",
            str(arguments.heads),
            "--steps",
            str(arguments.steps),
        ]
        print(f"{'':24} {'ms a step':>9} {'peak MB':>8}")
        for row in rows:
            command = [sys.executable, __file__, "--row", row, str(data.path), *sizes]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, memory = json.loads(done.stdout.splitlines()[-1])
            print(f"{row:24} {1e3 * seconds:9.2f} {memory:8.0f}", flush=True)


if __name__ == "__main__":
    main()
