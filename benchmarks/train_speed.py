"""Our loop, dense and pruned, beside `transformers.Trainer`: same model, batches, precision and optimiser (AdamW).

    python benchmarks/train_speed.py --width 8 12 18 72          one thread of a CPU, the quickstart's shapes
    python benchmarks/train_speed.py --device cuda               a GPU: T5 of 4 + 4 layers at d = 256, 768, 1024, bf16

Each row is a process of its own. On a CPU all take turns of a few steps, so that what else the machine does meets them
alike, and processor time counts; the ratio is the median over the turns. On a GPU one comes after the other, each is
printed as it ends, and wall time counts, with the share of the GPU's peak of bf16 products that the model's FLOPs take;
a row that fails or takes longer than its minutes is told, and the next one begins. Evaluation and checkpoints are left
out. Needs `accelerate` for the Trainer's rows, which are left out without it. Of the widths of a GPU the first alone
has all rows, the others ours.

The Trainer has the batches ready as we do (two workers of its loader on a GPU), AdamW fused, and kernels of any kind;
ours are deterministic but in the row that says otherwise.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer import families
from trainer.data import DataSource, Prepared, open_prepared, prepare
from trainer.program import DataStream, LearningRate, Numerics, Optimizer, Program, Pruning
from trainer.shapes import shape_for

#: Steps that are not timed: allocators and caches settle, a GPU's passes are compiled.
WARM_UP = 40

#: Seconds for a row on a GPU, compiling included: another one must have its turn.
LONGEST = 150.0

#: bf16 products a second, dense, by what the driver calls the GPU (NVIDIA's data sheets).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12}

#: What a device trains: widths, heads of a width, layers of encoder and decoder, vocabulary, batch, length, precision.
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"widths": [8, 12, 18, 72], "layers": 2, "vocabulary": 384, "batch": 16, "length": 96},
    "cuda": {"widths": [256, 768, 1024], "layers": 4, "vocabulary": 32128, "batch": 64, "length": 512},
}

Clock = Callable[[], float]


def program_of(
    data: Prepared,
    width: int,
    heads: int,
    steps: int,
    *,
    pruned: bool = False,
    optimizer: str = "adamw",
    device: str = "cpu",
) -> Program:
    """T5 of that width; masks move every 30 steps for all of the timed steps."""
    size = SIZES[device]
    model = {
        "d_model": width,
        "heads": heads,
        "d_ff": 8 * width // 3,
        "encoder_layers": size["layers"],
        "decoder_layers": size["layers"],
        "vocab_size": size["vocabulary"],
    }
    total = steps + WARM_UP + 31
    return Program(
        family="t5",
        shape=shape_for("t5", 12 * width**2 * 2 * size["layers"], model).dims,
        data=DataStream(digest=data.digest, sequence_length=size["length"], evaluation_batches=1),
        batch_size=size["batch"],
        steps=total,
        optimizer=Optimizer(name=optimizer),
        learning_rate=LearningRate(schedule="constant", base=1e-3, warmup=0),
        pruning=Pruning(sparsity=0.75 if pruned else 0.0, start=0, end=(total - 1) // 30 * 30, every=30),
        numerics=Numerics(precision="float32" if device == "cpu" else "bf16", device_type=device),
    )


class Turns:
    """In a row's process: so many steps as a line of standard input says, then a line with their seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = WARM_UP
        self._begin = 0.0

    def more(self) -> bool:
        """To be asked after every step: whether another one is wanted."""
        self._left -= 1
        if self._left:
            return True
        print(json.dumps(self._clock() - self._begin), flush=True)
        line = sys.stdin.readline()
        self._left = int(line or 0)
        self._begin = self._clock()
        return bool(line)


def ours(program: Program, data: Prepared, turns: Turns, **of_cuda: bool) -> None:
    """Our loop. of_cuda: how the GPU is used."""
    from trainer.devices import device_for
    from trainer.devices.cuda import Cuda
    from trainer.run import Run

    kind = program.numerics.device_type
    run = Run(program, data, Cuda(**of_cuda) if kind == "cuda" else device_for(kind))
    run.advance()
    while turns.more():
        run.advance()


def theirs(program: Program, data: Prepared, turns: Turns, *, compiled: bool) -> None:
    """`transformers.Trainer`, the same batches through a plain data loader."""
    import torch
    import transformers
    from torch.utils.data import Dataset

    from trainer import models
    from trainer.data.batches import Batches

    on_cpu = program.numerics.device_type == "cpu"
    if on_cpu:
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

    class Asked(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not turns.more()

    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=program.steps,
            per_device_train_batch_size=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=on_cpu,
            bf16=program.numerics.precision == "bf16",
            torch_compile=compiled,
            disable_tqdm=True,
            dataloader_pin_memory=not on_cpu,
            # One process makes a batch between two steps otherwise, as ours does on a CPU.
            dataloader_num_workers=0 if on_cpu else 2,
        )
        transformers.Trainer(
            model=network.module,
            args=settings,
            train_dataset=Rows(),
            data_collator=lambda rows: rows[0],
            callbacks=[Asked()],
        ).train()


def child(row: str, data: str, width: int, heads: int, steps: int, device: str) -> None:
    """Take turns at one row; at last a line with its peak of memory in MB and the GPU's name."""
    import torch

    prepared = open_prepared(Path(data))
    optimizer = "adafactor" if "adafactor" in row else "adamw"
    pruned = "pruned" in row
    program = program_of(prepared, width, heads, steps, pruned=pruned, optimizer=optimizer, device=device)

    def after_all_work() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    turns = Turns(time.process_time if device == "cpu" else after_all_work)
    if row.startswith("transformers.Trainer"):
        theirs(program, prepared, turns, compiled="compiled" in row)
    else:
        ours(program, prepared, turns, graphs="graphs" in row, deterministic="any kernels" not in row)
    if device == "cpu":
        peak, name = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, ""
    else:
        peak, name = torch.cuda.max_memory_allocated() / 2**20, torch.cuda.get_device_name()
    print(json.dumps([peak, name]), flush=True)


class RowFailed(RuntimeError):
    """A row ended before it was asked to: with what it said last."""


class Row:
    """A row's process, warm once this returns. Raises RowFailed, as all that is asked of it does.

    longest: seconds after which it is killed; 0: never.
    """

    def __init__(self, command: Sequence[str], longest: float = 0.0) -> None:
        # Not a pipe: what nobody reads meanwhile would stop it once the pipe is full.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        self._timer = threading.Timer(longest, self._process.kill)
        self._timer.daemon = True
        if longest:
            self._timer.start()
        self._answer()

    def turn(self, steps: int) -> float:
        """Seconds a step, over so many."""
        self._ask(f"{steps}\n")
        return float(self._answer()) / steps

    def end(self) -> tuple[float, str]:
        """Peak of memory in MB, and the GPU's name."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak, name = self._answer()
        self._process.wait()
        return peak, name

    def kill(self) -> None:
        """End it at once."""
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer will be missing, and says why
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        # The Trainer says what it pleases on standard output too.
        for line in self._process.stdout:
            if line.startswith(("[", *"0123456789")):
                return json.loads(line)
        code = self._process.wait()
        self._said.seek(0)
        raise RowFailed(f"ended with {code} before it was asked to:\n{self._said.read()[-2000:]}")


@contextmanager
def started(commands: Sequence[Sequence[str]], longest: float) -> Iterator[list[Row]]:
    """The rows of these commands; what is still there at the end is killed."""
    rows: list[Row] = []
    try:
        for command in commands:
            rows.append(Row(command, longest))
        yield rows
    finally:
        for row in rows:
            row.kill()


class Table:
    """Rows at one width: measured, printed, held against the first."""

    def __init__(self, data: Path, width: int, heads: int, device: str, turns: int, steps: int) -> None:
        self._width, self._turns, self._steps = width, turns, steps
        self._longest = 0.0 if device == "cpu" else LONGEST
        common = ["--heads", str(heads), "--steps", str(turns * steps)]
        self._after = [str(data), *common, "--device", device, "--width", str(width)]
        prepared = open_prepared(data)
        self._flops = flops_of(program_of(prepared, width, heads, turns * steps, device=device), prepared)
        #: The seconds of the first row, once it has been measured.
        self._first: list[float] | None = None

    def measure(self, rows: Sequence[str]) -> None:
        """Rows that take turns. Raises RowFailed."""
        is_first, self._first = self._first is None, self._first or []
        commands = [[sys.executable, __file__, "--row", row, *self._after] for row in rows]
        found: dict[str, list[float]] = {row: [] for row in rows}
        with started(commands, self._longest) as processes:
            for _ in range(self._turns):
                for row, process in zip(rows, processes, strict=True):
                    found[row].append(process.turn(self._steps))
            ends = [process.end() for process in processes]
        if is_first:
            self._first = found[rows[0]]
        for (row, each), (peak, name) in zip(found.items(), ends, strict=True):
            ratios = [mine / one for mine, one in zip(each, self._first, strict=False)]
            ratio = statistics.median(ratios) if ratios else float("nan")
            seconds = statistics.median(each)
            highest = next((PEAKS[part] for part in PEAKS if part in name.replace("-", " ").split()), None)
            used = "" if highest is None else f" {self._flops / seconds / highest:6.1%} of {name}"
            print(
                f"{self._width:>5} {row:32} {1e3 * seconds:9.2f} {ratio:8.2f} {peak:8.0f}{used}", flush=True
            )


def flops_of(program: Program, data: Prepared) -> float:
    """The model's FLOPs of a training step, dense."""
    from trainer.data.batches import Batches

    objective = Batches(program.data, data, batch_size=program.batch_size, seed=program.seed).objective
    rules = families.rules(program.family)
    per_example = rules.training_flops(program.shape, objective.inputs, objective.targets)
    return float(per_example * program.batch_size)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--width", type=int, nargs="+", help="default: the device's")
    parser.add_argument(
        "--heads", type=int, default=0, help="default: 2 on a CPU, one for 64 features on a GPU"
    )
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        child(*asked.row, asked.width[0], asked.heads, asked.steps, asked.device)
        return 0
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(DataSource(max_tokens=2_000_000), Path(folder))
        print(f"{'d':>5} {'':32} {'ms a step':>9} {'of first':>8} {'peak MB':>8}", flush=True)
        for place, width in enumerate(asked.width or SIZES[asked.device]["widths"]):
            heads = asked.heads or (2 if asked.device == "cpu" else width // 64)
            rows = rows_of(asked.device, whole=place == 0)
            table = Table(data.path, width, heads, asked.device, asked.turns, asked.steps)
            # On a CPU all are alive and take turns; a GPU is theirs alone, one after the other.
            for group in [rows] if asked.device == "cpu" else [[row] for row in rows]:
                try:
                    table.measure(group)
                except RowFailed as error:
                    failed = True
                    print(f"{width:>5} {', '.join(group)}: {error}", flush=True)
    return int(failed)


def rows_of(device: str, *, whole: bool) -> list[str]:
    """What is measured there, the first being what the others are held against. whole: all of a GPU's rows, each of
    which is half a minute of compiling or more."""
    theirs = ["transformers.Trainer"] * (find_spec("accelerate") is not None)
    if device == "cpu":
        return ["ours, dense", "ours, pruned", "ours, dense, adafactor", "ours, pruned, adafactor", *theirs]
    compiled = [f"{row}, compiled" for row in theirs]
    if not whole:
        return ["ours, dense", "ours, pruned, adafactor"]
    ways = ["ours, dense, any kernels", "ours, dense, graphs"]
    return ["ours, dense", *theirs, *compiled, "ours, pruned", "ours, pruned, adafactor", *ways]


if __name__ == "__main__":
    sys.exit(main())
