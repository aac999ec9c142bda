"""Packs of 1, 2, 4 and 8 models: member steps a second beside one run a process, and beside processes that share a GPU.

    python benchmarks/pack_speed.py                   the quickstart's shapes, two processes side by side on the cores
    python benchmarks/pack_speed.py --device cuda     N from 0.3 M to 20 M on one GPU, and Ray's fractional GPUs

On the CPU each process interleaves all sizes and its processor time counts, so that what else the machine does changes
the ratios little; both processes measure the same size at the same time, so that they share memory and caches as the
workers of a sweep do. On a GPU wall time counts, and `--ray` trains as many runs in as many Ray tasks of 1/P GPU each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from trainer.data import DataSource, prepare
from trainer.program import DataStream, LearningRate, Numerics, Program
from trainer.shapes import shape_for

SIZES = (1, 2, 4, 8)

#: By family: the quickstarts' models, by dense linear weights, with their objectives; and a T5 of six layers each for
#: GPUs.
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
    "heads": 8,
    "d_ff": 1024,
    "encoder_layers": 6,
    "decoder_layers": 6,
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
        numerics=Numerics(device_type=device),
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
    for trial in range(rounds + 1):  # the first is for warming up
        for size in sizes:
            steps = max(1, 8 // size)
            wait()
            begin = clock()
            for _ in range(steps):
                movers[size].advance()
            device.wait()
            if trial:
                fastest[size] = min(fastest[size], (clock() - begin) / steps)
    return fastest


def side_by_side(chosen: Program, data: Path, processes: int, rounds: int) -> list[dict[int, float]]:
    """What each of so many processes measured, all at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    arguments = (chosen, data, rounds, barrier, results)
    workers = [context.Process(target=_measure, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return found


def _measure(chosen: Program, data: Path, rounds: int, barrier: Barrier, results: Any) -> None:
    results.put(seconds_a_step(chosen, data, SIZES, rounds, barrier.wait))


def shared_by_ray(chosen: Program, data: Path, tasks: int, steps: int = 200) -> float:
    """Member steps a second of so many runs in Ray tasks that hold 1/tasks of the GPU each."""
    import ray

    @ray.remote(num_gpus=1 / tasks, max_calls=1)
    def train() -> tuple[float, float]:
        from trainer.data.prepared import open_prepared
        from trainer.devices import device_for
        from trainer.run import Run

        device = device_for(chosen.numerics.device_type)
        run = Run(chosen, open_prepared(data), device)
        for _ in range(10):
            run.advance()
        device.wait()
        began = time.time()
        for _ in range(steps):
            run.advance()
        device.wait()
        return began, time.time()

    times = ray.get([train.remote() for _ in range(tasks)])
    return tasks * steps / (max(end for _, end in times) - min(begin for begin, _ in times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--family", choices=tuple(SMALL), default="t5", help="on the CPU")
    parser.add_argument("--processes", type=int, help="side by side; default: 2 on the CPU, 1 on a GPU")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--weights", type=float, nargs="*", help="dense linear weights; default: by device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="also Ray's fractional sharing of the GPU")
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
    for weights in chosen.weights or WEIGHTS[chosen.device]:
        made = program(weights, chosen.device, chosen.batch_size, prepared.digest, chosen.family)
        found = side_by_side(made, prepared.path, processes, chosen.rounds)
        rate = {n: sum(n / each[n] for each in found) for n in SIZES}
        cells = [f"{n}: {rate[n] * 3600 / RUN_STEPS:7.1f} ({rate[n] / rate[1]:.2f}×)" for n in SIZES]
        print(f"{weights:>10,.0f} weights, d = {made.shape['d_model']:>3}   " + "   ".join(cells), flush=True)
        if chosen.ray:
            import ray

            ray.init(ignore_reinit_error=True, include_dashboard=False)
            shared = {n: shared_by_ray(replace(made, seed=1), prepared.path, n) for n in SIZES}
            print(
                "   Ray shares the device: " + "   ".join(f"{n}: {shared[n] / rate[1]:.2f}×" for n in SIZES)
            )


if __name__ == "__main__":
    main()
