"""How fast is a fit? Beside scipy's 25-start BFGS, as in the paper, and beside the `chinchilla` package.

    python benchmarks/fit_speed.py RUNS.csv

prints one Markdown table; every row is measured in the same run on the same machine. `chinchilla` (from the
package index) is compared on its own law, E + A/N^α + B/D^β, on a table simulated from it; the row is left
out, with a reason, where the package is not installed. Times are the best of several repeats, because the
others measure the machine's neighbours.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fitter
from fitter.forms import Points, get_form
from fitter.objective import mean_huber, residuals

Array = NDArray[np.float64]
QUICK: dict[str, Any] = {"intervals": False, "report": False}
CHINCHILLA = {"E": 1.7, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}


def best_of(repeats: int, function: Callable[[], Any]) -> tuple[float, Any]:
    """Least wall seconds of some calls, and the last result."""
    least, result = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        least = min(least, time.perf_counter() - start)
    return least, result


def scipy_as_in_the_paper(runs: fitter.table.Runs, starts: int = 25) -> tuple[float, int]:
    """Best mean Huber of 25 random starts of BFGS with numerical gradients, and how many come within 1 %."""
    from scipy.optimize import minimize

    n, d, density = runs.nonzero_params / 1e6, runs.data / (1e5 * 65536), 1.0 - runs.sparsity

    def objective(x: Array) -> float:
        a_s, b_s, c_s, b_n, a_d, b_d, c = x
        with np.errstate(all="ignore"):
            loss = (a_s * density**b_s + c_s) * n**-b_n + (a_d / d) ** b_d + c
            return mean_huber(np.nan_to_num(np.log(loss) - np.log(runs.loss), nan=1e3), 1e-3)

    random = np.random.default_rng(0)
    ends = [minimize(objective, random.uniform(0, 2, 7), method="BFGS").fun for _ in range(starts)]
    return float(min(ends)), int(np.sum(np.array(ends) <= min(ends) * 1.01))


def dense_table(rows: int, seed: int = 0) -> dict[str, Array]:
    """A Chinchilla sweep with 0.5 % scatter."""
    random = np.random.default_rng(seed)
    n, d = np.exp(random.uniform(16, 23, rows)), np.exp(random.uniform(21, 27, rows))
    points = Points(np.zeros(rows), n, d, d)
    loss = get_form("chinchilla").evaluate(np.array(list(CHINCHILLA.values())), points)
    loss = loss * np.exp(0.005 * random.standard_normal(rows))
    return {"sparsity": points.sparsity, "nonzero_params": n, "data": d, "loss": loss}


def sparse_table(rows: int) -> dict[str, Array]:
    """A sparsity sweep of many runs with 1 % scatter."""
    random = np.random.default_rng(1)
    n, d = np.exp(random.uniform(14, 21, rows)), np.exp(random.uniform(21, 26, rows))
    s = random.choice([0.0, 0.5, 0.75, 0.875, 0.9375], rows)
    law = np.array([10.711, 1.34497, 41.621, 0.23168, 6.769e8, 0.38464, 0.83037])
    loss = get_form("sparsity").evaluate(law, Points(s, n, d, d)) * np.exp(
        0.01 * random.standard_normal(rows)
    )
    return {"sparsity": s, "nonzero_params": n, "data": d, "loss": loss}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep another package's progress bars out of the table."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def chinchilla_package(table: dict[str, Array]) -> tuple[float, float] | None:
    """Seconds and mean log-Huber of the `chinchilla` package from a 3^5 grid of starts; None if not installed."""
    try:
        from chinchilla import Chinchilla
    except ImportError:
        return None

    def log_huber(y_true: Array, y_pred: Array, weights: Array | None = None) -> float:
        return mean_huber(np.log(np.maximum(y_pred, 1e-30)) - np.log(y_true), 1e-3)

    grid = {
        "e": np.linspace(-0.5, 1.0, 3),
        "a": np.linspace(2, 12, 3),
        "b": np.linspace(2, 12, 3),
        "alpha": np.linspace(0.2, 0.8, 3),
        "beta": np.linspace(0.2, 0.8, 3),
    }
    with tempfile.TemporaryDirectory() as folder, silence():
        model = Chinchilla(
            folder,
            param_grid=grid,
            seed_ranges={"C": (1e15, 1e22), "N_to_D": (1, 100)},
            model_search_config=None,
            loss_fn=log_huber,
            log_level=50,
        )
        for n, d, loss in zip(table["nonzero_params"], table["data"], table["loss"], strict=True):
            model.database.append(C=6 * n * d, N=n, D=d, loss=loss)
        start = time.perf_counter()
        model.fit(parallel=True)
        seconds = time.perf_counter() - start
    raw = np.array([model.E, model.A, model.alpha, model.B, model.beta], dtype=float)
    points = Points(*(table[name] for name in ("sparsity", "nonzero_params", "data", "data")))
    predicted = get_form("chinchilla").evaluate(raw, points)
    return seconds, mean_huber(residuals(predicted, table["loss"], "log"), 1e-3)


def row(what: str, seconds: float, aim: str, result: str) -> None:
    took = f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
    print(f"| {what} | {took} | {aim} | {result} |", flush=True)


def main(path: str) -> None:
    runs = fitter.table.check(fitter.table.read(path))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}\n")
    print("| what | time | aim | result |\n|---|---|---|---|")

    seconds, law = best_of(60, lambda: fitter.fit(runs, **QUICK))
    reached = law.diagnostics["basins"]
    row(
        "point fit, 48 T5 runs",
        seconds,
        "≤ 40 ms",
        f"objective {law.objective:.5g}, {reached['reached_optimum']} of {reached['starts']} starts",
    )
    seconds, (objective, close) = best_of(1, lambda: scipy_as_in_the_paper(runs))
    row(
        "the same, scipy BFGS, 25 random starts",
        seconds,
        "",
        f"objective {objective:.5g}, {close} of 25 starts",
    )
    point = best_of(5, lambda: fitter.fit(runs, **QUICK))[0]
    seconds, _ = best_of(8, lambda: fitter.fit(runs, draws=1000, report=False))
    row(
        "1,000 bootstrap refits, 48 T5 runs",
        seconds - point,
        "≤ 2 s",
        f"{1e3 * (seconds - point) / 1000:.2f} ms each",
    )
    seconds, _ = best_of(8, lambda: fitter.fit(runs))
    row("fit with 500 draws and the whole trust report", seconds, "", "")
    many = sparse_table(10_000)
    seconds, law = best_of(12, lambda: fitter.fit(many, **QUICK))
    row("point fit, 10,000 runs", seconds, "≤ 1 s", f"b_N {law.coefficients['b_N']:.4f} (truth 0.2317)")

    command = [sys.executable, "-m", "orchestrator.command.main", "fit", path, "--json"]
    seconds, _ = best_of(5, lambda: subprocess.run(command, check=True, capture_output=True))
    row("`lacuna fit TABLE --json`, imports included", seconds, "≤ 1.5 s", "")

    dense = dense_table(240)
    seconds, law = best_of(5, lambda: fitter.fit(dense, form="chinchilla", **QUICK))
    row("Chinchilla law, 240 runs", seconds, "", f"objective {law.objective:.6g}")
    other = chinchilla_package(dense)
    if other is None:
        print("\nThe `chinchilla` package is not installed, so its row is left out.")
    else:
        row("the same, package `chinchilla` 0.2, 243 starts", other[0], "", f"objective {other[1]:.6g}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/fit_speed.py RUNS.csv")
    main(sys.argv[1])
