"""How often do the fitter's 90 % intervals hold the truth?

Sweeps of the paper's T5 and ViT shapes are simulated from known laws with log-normal scatter, fitted through
`fitter.fit` with default settings, and every interval is checked against the truth.

    python benchmarks/coverage.py --sweeps 400

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

Array = NDArray[np.float64]

T5_LAW = (10.711, 1.34497, 41.621, 0.23168, 6.769e8, 0.38464, 0.83037)
VIT_LAW = (2.94e2, 0.821, 4.68e2, 0.392, 2.37e8, 0.890, 4.517)
ASKED = ("b_S", "b_N", "gain(0.75)", "S_opt", "loss", "b_D", "c")


def t5_shape() -> Points:
    """4 sizes × 3 lengths × 4 sparsities: 48 runs."""
    axes = 1327104 * 4.0 ** np.arange(4), np.array([250e3, 500e3, 1e6]) * 65536, (0.0, 0.5, 0.75, 0.875)
    n, d, s = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    return Points(s, n, d, d)


def vit_shape() -> Points:
    """7 sizes × 4 lengths × 3 to 5 sparsities: 112 runs."""
    cells = [
        (s, n, d)
        for i, n in enumerate(663552 * 2.0 ** np.arange(7))
        for d in (225e6, 450e6, 900e6, 1.8e9)
        for s in ((0.0, 0.5, 0.75, 0.875, 0.9375) if i < 2 else (0.0, 0.5, 0.75, 0.875)[: 4 if i < 5 else 3])
    ]
    s, n, d = np.array(cells).T
    return Points(s, n, d, d)


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
    for name, shape, law in (("T5, 48 runs", t5_shape(), T5_LAW), ("ViT, 112 runs", vit_shape(), VIT_LAW)):
        for noise in (0.005, 0.01):
            shares = study(shape, np.array(law), noise, sweeps, seed)
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
