"""How often do the fitter's 90 % intervals hold the truth?

Sweeps of the paper's T5 and ViT shapes are simulated from known laws with log-normal scatter, fitted through
`fitter.fit` with default settings, and every interval is checked against the truth.

    python -m benchmarks.coverage --sweeps 400

prints a Markdown table; docs/fitting.md shows one such run. 400 sweeps take about four minutes on one core,
and each share then has a standard error of 1.5 points.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

import fitter
from fitter.forms import Points, get_form
from fitter.optimum import optimal_sparsity
from tests.fitter.designs import OPTIMUM_T5, PUBLISHED_VIT, raw_of, t5_points, vit_points

Array = NDArray[np.float64]

ASKED = ("b_S", "b_N", "gain(0.75)", "S_opt", "loss", "b_D", "c")


def question(truth: Array) -> tuple[float, float]:
    """A model size within the sweep, and the FLOPs at which 60 % sparsity is optimal for it."""
    form, n = get_form("sparsity"), 2.1e7
    flops = np.geomspace(1e14, 1e25, 4000)
    found = optimal_sparsity(form, truth[None], np.full(flops.size, n), flops, "dense")[0]
    return n, float(flops[np.abs(found - 0.6).argmin()])


def study(
    points: Points, truth: Array, noise: float, sweeps: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Share of sweeps whose interval holds the truth, and share declared not identified, for each quantity."""
    form = get_form("sparsity")
    exact = form.evaluate(truth, points)
    n, flops = question(truth)
    true = {
        "b_S": truth[1],
        "b_N": truth[3],
        "b_D": truth[5],
        "c": truth[6],
        "gain(0.75)": float(form.gain(truth, np.array([0.75]))[0]),
        "S_opt": float(optimal_sparsity(form, truth[None], np.array([n]), np.array([flops]), "dense")[0, 0]),
        "loss": float(form.evaluate(truth, Points(*(np.array([x]) for x in (0.5, n, 3e9, 3e9))))[0]),
    }
    random = np.random.default_rng(seed)
    hits: dict[str, list[bool]] = {name: [] for name in ASKED}
    refused: dict[str, int] = dict.fromkeys(ASKED, 0)
    for _ in range(sweeps):
        loss = exact * np.exp(noise * random.standard_normal(exact.size))
        table = {"sparsity": points.sparsity, "nonzero_params": points.nonzero_params, "data": points.data}
        law = fitter.fit({**table, "loss": loss}, report=False)
        optimum, gain, mean = law.optimum(n, flops), law.gain["0.75"], law.predict(0.5, n, 3e9)
        bounds = {
            "S_opt": (float(optimum.low), float(optimum.high)),
            "gain(0.75)": (gain["low"], gain["high"]),
            "loss": (float(mean.low), float(mean.high)),
        }
        for name in ASKED:
            if name in bounds:
                low, high = bounds[name]
            elif law.intervals[name]["identified"]:
                low, high = law.intervals[name]["low"], law.intervals[name]["high"]
            else:
                refused[name] += 1
                continue
            hits[name].append(bool(low <= true[name] <= high))
    return {
        name: (float(np.mean(hits[name])) if hits[name] else np.nan, refused[name] / sweeps) for name in ASKED
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sweeps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    sweeps, seed = vars(parser.parse_args()).values()
    print("| shape | noise | " + " | ".join(ASKED) + " |")
    print("|---|---|" + "---|" * len(ASKED))
    for name, shape, law in (
        ("T5, 48 runs", t5_points(), OPTIMUM_T5),
        ("ViT, 112 runs", vit_points(), PUBLISHED_VIT),
    ):
        for noise in (0.005, 0.01):
            shares = study(shape, raw_of(law), noise, sweeps, seed)
            cells = [
                f"{held:.1%}"
                if gone == 0
                else "not identified"
                if gone == 1
                else f"{held:.0%} ({gone:.0%} not identified)"
                for held, gone in shares.values()
            ]
            print(f"| {name} | {noise:.1%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
