"""All methods and patterns at equal steps: one T5 shape, 75 % sparsity, the Python corpus, several seeds.

    python benchmarks/train_methods.py --steps 600 --seeds 3

Prints a table of validation losses (nats a byte, mean and range over seeds), best first. About 20 minutes on one core
with the defaults; windows are the paper's, scaled to the run's length.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from trainer.data import DataSource, Prepared, prepare
from trainer.metrics import NoSink
from trainer.program import DataStream, LearningRate, Program, Pruning
from trainer.pruning.methods import method_for
from trainer.pruning.rounds import in_rounds
from trainer.segment import train_segment
from trainer.shapes import shape_for

SPARSITY = 0.75

#: Row of the table → method, pattern, distribution.
CASES: dict[str, tuple[str, str, str] | None] = {
    "dense": None,
    "dense, 4 heads": None,
    "gmp": ("gmp", "unstructured", "uniform"),
    "gmp 2:8": ("gmp", "2:8", "uniform"),
    "gmp 1:4": ("gmp", "1:4", "uniform"),
    "gmp erk": ("gmp", "unstructured", "erk"),
    "gmp global": ("gmp", "unstructured", "global"),
    "acdc": ("acdc", "unstructured", "uniform"),
    "acdc, phases of 5 %": ("acdc", "unstructured", "uniform"),
    "ste": ("ste", "unstructured", "uniform"),
    "sr-ste": ("sr-ste", "unstructured", "uniform"),
    "rigl": ("rigl", "unstructured", "uniform"),
    "set": ("set", "unstructured", "uniform"),
    "static": ("static", "unstructured", "uniform"),
    "imp": ("imp", "unstructured", "uniform"),
    "gmp block:4x4": ("gmp", "block:4x4", "uniform"),
    "gmp channel, 4 heads": ("gmp", "channel", "uniform"),
    "oneshot": ("oneshot", "unstructured", "uniform"),
}


def program_of(row: str, steps: int, seed: int, data: Prepared) -> Program:
    """The program of one row. The update period is 1/60 of the run; AC/DC's phases are its own, unless the row says so.

    Whole heads cannot be a quarter of two, so channels are pruned from four, of half the width.
    """
    case = CASES[row]
    model = {
        "d_model": 32,
        "heads": 4 if "4 heads" in row else 2,
        "d_ff": 88,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "multiple_of": 8,
    }
    pruning = Pruning()
    if case is not None:
        method = method_for(case[0])
        start, end = (round(share * steps) for share in method.window)
        every = round(method.period * steps) if method.period < 1 else steps // 60
        if "5 %" in row:
            every = steps // 20
        if case[0] == "imp":
            start, end, every = in_rounds(start, 3, steps)
        pruning = Pruning(
            method=case[0],
            pattern=case[1],
            distribution=case[2],
            sparsity=SPARSITY,
            start=start,
            end=end,
            every=every,
        )
    return Program(
        family="t5",
        shape=shape_for("t5", 12 * 32**2 * 4, {**model, "vocab_size": 384}).dims,
        data=DataStream(digest=data.digest, sequence_length=96),
        batch_size=16,
        steps=steps,
        seed=seed,
        learning_rate=LearningRate(base=0.25, warmup=40),
        pruning=pruning,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CASES), help="rows to run")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(DataSource(max_tokens=8_000_000), Path(folder, "data"))
        for name in arguments.only:
            losses, density = [], 1.0
            for seed in range(arguments.seeds):
                program = program_of(name, arguments.steps, seed, data)
                output = str(Path(folder, "runs", name, str(seed)))
                result = train_segment(
                    program, 0, program.steps, data=data.path, parent=None, output=output, sink=NoSink()
                )
                losses.append(result.loss)
                density = result.average_density
            rows.append((statistics.mean(losses), name, min(losses), max(losses), density))
            print(f"{name}: {losses}", flush=True)
    print(f"\n{'':21} {'loss':>7} {'lowest':>7} {'highest':>7} {'average density':>16}")
    for mean, name, low, high, density in sorted(rows):
        print(f"{name:21} {mean:7.4f} {low:7.4f} {high:7.4f} {density:16.3f}")


if __name__ == "__main__":
    main()
