"""Packs of 1, 2, 4 and 8 models: member steps a second beside one run a process, and beside processes that share a GPU.

    python benchmarks/pack_speed.py                   the quickstart's shapes, two processes side by side on the cores
    python benchmarks/pack_speed.py --device cuda     N from 0.3 M to 20 M on one GPU, and processes that share it

On the CPU each process interleaves all sizes and its processor time counts, so that what else the machine does changes
the ratios little; both processes measure the same size at the same time, so that they share memory and caches as the
workers of a sweep do. On a GPU wall time counts, and as many runs are trained in as many processes that share it too,
which is what Ray's fractional GPUs come to: Ray counts the fractions, and starts the processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

from trainer.data import DataSource, prepare
from trainer.program import DataStream, LearningRate, Numerics, Program
from trainer.shapes import shape_for

SIZES = (1, 2, 4, 8)

#: By family: the quickstarts' models, by dense linear weights, with their objectives; and a wider T5 for GPUs, of as
#: few layers, since each size of a pack is compiled.
_TEXT = {"heads": 2, "d_model": 64, "vocab_size": 384, "shape_rule": "linear"}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("span-corruption", {**_TEXT, "d_ff": 170, "encoder_layers": 2, "decoder_layers": 2}),
    "decoder": ("causal", {**_TEXT, "d_ff": 170, "layers": 4}),
    "encoder": ("masked", {**_TEXT, "d_ff": 256, "layers": 4, "positions": 96}),
    "vit": (
        "image-classification",
        {
            **{"heads": 2, "d_model": 64, "d_ff": 256, "layers": 4, "shape_rule": "linear"},
            **{"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10},
        },
    ),
}
LARGE = {
    "d_model": 512,
    "heads": 4,
    "d_ff": 1024,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "vocab_size": 384,
}
WEIGHTS: dict[str, tuple[float, ...]] = {
    "cpu": (4e3, 8e3, 16e3, 32e3, 64e3, 256e3),
    "cuda": (0.3e6, 1e6, 5e6, 20e6),
}

#: Steps of a run, for "runs per hour": the quickstart's longest.
RUN_STEPS = 1800


def program(weights: float, device: str, batch_size: int, digest: str, family: str = "t5") -> Program:
    objective, options = SMALL[family] if device == "cpu" else ("span-corruption", LARGE)
    return Program(
        family=family,
        shape=dict(shape_for(family, weights, options).dims),
        data=DataStream(
            digest=digest,
            objective=objective,
            sequence_length=96 if device == "cpu" else 256,
            evaluation_batches=2,
        ),
        batch_size=batch_size,
        steps=RUN_STEPS,
        learning_rate=LearningRate(base=0.25, warmup=40),
        numerics=Numerics(precision="float32" if device == "cpu" else "bf16", device_type=device),
    )


def seconds_a_step(
    chosen: Program, data: Path, sizes: Sequence[int], rounds: int, wait: Any
) -> dict[int, float]:
    """Size → seconds of one step of all its members, the fastest of the rounds. 1 is a run alone, not a pack of one.

    wait: called before each timing, so that processes keep step with each other.
    """
    from trainer.data.prepared import open_prepared
    from trainer.devices import device_for
    from trainer.pack import Pack
    from trainer.run import Run

    device, prepared = device_for(chosen.numerics.device_type), open_prepared(data)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    movers: dict[int, Run | Pack] = {
        n: Pack([Run(chosen, prepared, device) for _ in range(n)]) if n > 1 else Run(chosen, prepared, device)
        for n in sizes
    }
    fastest = dict.fromkeys(sizes, float("inf"))
    least = 8 if device.type == "cpu" else 80  # steps of a member: so that a GPU's are many milliseconds
    for trial in range(rounds + 1):  # the first is for warming up
        for size in sizes:
            steps = max(1, least // size)
            wait()
            begin = clock()
            for _ in range(steps):
                movers[size].advance()
            device.wait()
            if trial:
                fastest[size] = min(fastest[size], (clock() - begin) / steps)
    return fastest


#: In a process that measures beside others: where they wait for each other.
_barrier: Barrier

Found = TypeVar("Found")


def _meets(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def side_by_side(processes: int, measure: Callable[..., Found], *arguments: Any) -> list[Found]:
    """What each of so many processes measured, all at the same time. measure: takes its place among them first."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(
        processes, timeout=300
    )  # seconds: one that has failed is not waited for any longer
    with ProcessPoolExecutor(processes, context, _meets, (barrier,)) as workers:
        asked = [workers.submit(_or_stop_all, measure, place, *arguments) for place in range(processes)]
        return [one.result() for one in asked]


def _or_stop_all(measure: Callable[..., Found], *arguments: Any) -> Found:
    try:
        return measure(*arguments)
    except BaseException:
        _barrier.abort()
        raise


def packs(place: int, chosen: Program, data: Path, rounds: int) -> dict[int, float]:
    """Size → seconds of a step, as measured by one of the processes that do."""
    return seconds_a_step(chosen, data, SIZES, rounds, _barrier.wait)


def sharing(place: int, chosen: Program, data: Path, steps: int) -> dict[int, tuple[float, float]]:
    """Processes that train a run each at the same time → when this one began and ended so many steps; those alone of
    which it was one."""
    from trainer.data.prepared import open_prepared
    from trainer.devices import device_for
    from trainer.run import Run

    device = device_for(chosen.numerics.device_type)
    run = Run(chosen, open_prepared(data), device)
    for _ in range(10):
        run.advance()
    device.wait()
    found = {}
    for processes in SIZES:
        _barrier.wait()
        if place < processes:
            begin = time.perf_counter()
            for _ in range(steps):
                run.advance()
            device.wait()
            found[processes] = begin, time.perf_counter()
    return found


def shared(chosen: Program, data: Path, steps: int) -> dict[int, float]:
    """Member steps a second of so many processes that share the device, one run each."""
    found = side_by_side(SIZES[-1], sharing, chosen, data, steps)
    rates = {}
    for n in SIZES:
        times = [each[n] for each in found if n in each]
        rates[n] = n * steps / (max(end for _, end in times) - min(begin for begin, _ in times))
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--family", choices=tuple(SMALL), default="t5", help="on the CPU")
    parser.add_argument("--processes", type=int, help="side by side; default: 2 on the CPU, 1 on a GPU")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--weights", type=float, nargs="*", help="dense linear weights; default: by device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--shared",
        type=int,
        metavar="STEPS",
        help="of processes that share it; default: 100 on a GPU, else 0: none",
    )
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("LACUNA_HOME", "/tmp/pack-speed")))
    chosen = parser.parse_args()
    processes = chosen.processes or (2 if chosen.device == "cpu" else 1)
    if chosen.device != "cpu" and chosen.family != "t5":
        parser.error("on a GPU the family is t5")
    source = DataSource(source="python-source", max_tokens=4_000_000)
    if chosen.family == "vit":
        source = DataSource(source="digits", validation_share=0.2)
    prepared = prepare(source, chosen.home / "data")
    print(
        f"{processes} processes, batch of {chosen.batch_size}; runs of {RUN_STEPS} steps per hour, × one run a process"
    )
    steps = (100 if chosen.device == "cuda" else 0) if chosen.shared is None else chosen.shared
    failed = False
    for weights in chosen.weights or WEIGHTS[chosen.device]:
        made = program(weights, chosen.device, chosen.batch_size, prepared.digest, chosen.family)
        print(f"{weights:>10,.0f} weights, d = {made.shape['d_model']:>3}   ", end="", flush=True)
        try:
            found = side_by_side(processes, packs, made, prepared.path, chosen.rounds)
            alone = sum(1 / each[1] for each in found)
            told({n: sum(n / each[n] for each in found) for n in SIZES}, alone)
            if steps:
                print("   processes that share the device  ", end="", flush=True)
                told(shared(made, prepared.path, steps), alone)
        except Exception as error:
            failed = True
            print(f"failed: {type(error).__name__}: {error}", flush=True)
    return int(failed)


def told(rates: dict[int, float], alone: float) -> None:
    """Print member steps a second as runs an hour, and held against a run that is alone."""
    cells = [f"{n}: {rate * 3600 / RUN_STEPS:7.1f} ({rate / alone:.2f}×)" for n, rate in rates.items()]
    print("   ".join(cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
