"""What pruning adds to a step, pattern by pattern, and to the peak of memory.

    python benchmarks/prune_cost.py --width 64

Time, in one process: the pieces that only a pruned run has are timed by themselves, hundreds of times: holding pruned
weights at zero, once a step, and computing all masks, once a period. Their sum, amortised over the period, is set
against the dense step. Whole steps of a dense and a pruned run, in turns, check it. Processor time on one thread, so
that a busy machine does not blur the comparison. Memory: the peak of a dense and of a pruned run, each in a process of
its own, less what the process had before it built the model, with freed memory given back at once: what the allocator
keeps moves a peak by 6 % from step to step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from train_speed import program_of

from trainer.data import DataSource, Prepared, open_prepared, prepare
from trainer.devices import device_for
from trainer.program import Program, Pruning
from trainer.run import Run

#: Steps between two mask updates, the paper's.
PERIOD = 100

#: Row → pattern, distribution, sparsity.
CASES = {
    "unstructured": ("unstructured", "uniform", 0.75),
    "global": ("unstructured", "global", 0.75),
    "2:4": ("2:4", "uniform", 0.5),
    "2:8": ("2:8", "uniform", 0.75),
    "block:4x4": ("block:4x4", "uniform", 0.75),
    "channel": ("channel", "uniform", 0.5),
}


def pruned(dense: Program, pattern: str, distribution: str, sparsity: float) -> Program:
    """The same program, pruned from its first step."""
    chosen = Pruning(
        pattern=pattern, distribution=distribution, sparsity=sparsity, start=0, end=PERIOD, every=PERIOD
    )
    return replace(dense, pruning=chosen)


def seconds(action: Callable[[], object], times: int) -> float:
    """Processor time of one call: the median over `times`."""
    found = []
    for _ in range(times):
        begin = time.process_time()
        action()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def child(case: str, data: str, width: int) -> None:
    """Print the MB that a run adds to its process at its peak."""
    import torch  # noqa: F401  (so that it does not count as the run's)
    import transformers.models.t5.modeling_t5  # noqa: F401

    dense = program(open_prepared(Path(data)), width)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of importing is none of the run's
    chosen = dense
    if case == "ste":
        chosen = replace(dense, pruning=Pruning(method="ste", sparsity=0.75, start=0, end=PERIOD, every=1))
    elif case != "dense":
        chosen = pruned(dense, *CASES[case])
    run = Run(chosen, open_prepared(Path(data)), device_for("cpu"))
    for _ in range(4):
        run.advance()
    print(json.dumps(resident("VmHWM") - before))


def resident(what: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak. Linux only."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


def program(data: Prepared, width: int) -> Program:
    """The quickstart's kind of model and batch, dense, with AdaFactor."""
    found = program_of(data, width, 2, 2 * PERIOD, pruned=False, optimizer="adafactor")
    return replace(found, shape={**found.shape, "d_ff": round(width / 3) * 8})  # whole groups and blocks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of whole steps, dense and pruned")
    parser.add_argument("--memory-width", type=int, default=256)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.width)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(DataSource(max_tokens=2_000_000), Path(folder))
        dense = program(data, arguments.width)
        alone, masked = (
            Run(one, data, device_for("cpu")) for one in (dense, pruned(dense, *CASES["unstructured"]))
        )
        steps: dict[Run, list[float]] = {alone: [], masked: []}
        for _ in range(5 + arguments.pairs):
            for run in (alone, masked):
                steps[run].append(seconds(run.advance, 1))
        step, other = (statistics.median(steps[run][5:]) for run in (alone, masked))
        print(f"dense step {1e3 * step:.2f} ms; pruned between updates {other / step:.3f} × that")
        print(f"{'':14} {'hold, ms':>9} {'masks, ms':>9} {'a step, ms':>10} {'share':>7}")
        for name, case in CASES.items():
            run = Run(pruned(dense, *case), data, device_for("cpu"))
            run.advance()
            gradient = run.parameters.zeros()
            pruner = run.pruner
            masks = seconds(lambda pruner=pruner, gradient=gradient: pruner.observe(PERIOD, gradient), 50)  # type: ignore[misc]
            hold = seconds(pruner.apply, 300)
            cost = hold + masks / PERIOD
            print(
                f"{name:14} {1e3 * hold:9.3f} {1e3 * masks:9.2f} {1e3 * cost:10.3f} {cost / step:7.2%}",
                flush=True,
            )
        print(f"\n{'':14} {'peak MB':>9} {'of dense':>9}   (d = {arguments.memory_width})")
        whole = 0.0
        for name in ("dense", "unstructured", "2:8", "block:4x4", "ste"):
            command = [sys.executable, __file__, "--child", name, str(data.path)]
            command += ["--width", str(arguments.memory_width)]
            given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, **given_back}
            )
            peak = json.loads(done.stdout.splitlines()[-1])
            whole = whole or peak
            print(f"{name:14} {peak:9.1f} {peak / whole:9.3f}", flush=True)


if __name__ == "__main__":
    main()
