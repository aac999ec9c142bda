"""Sweeps of known shape and known law, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.forms import Points, get_form

Array = NDArray[np.float64]

#: The 48 public T5/C4 runs of the paper; not part of the repository.
T5_TABLE = Path(__file__).parents[3] / "shared" / "paper" / "t5-c4-runs.csv"

PUBLISHED_T5 = {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651}
PUBLISHED_VIT = {
    "a_S": 294.0,
    "b_S": 0.821,
    "c_S": 468.0,
    "b_N": 0.392,
    "a_D": 2.37e8,
    "b_D": 0.89,
    "c": 4.517,
}
OPTIMUM_T5 = {
    "a_S": 10.711,
    "b_S": 1.34497,
    "c_S": 41.621,
    "b_N": 0.23168,
    "a_D": 6.769e8,
    "b_D": 0.38464,
    "c": 0.83037,
}


def t5_points() -> Points:
    """4 sizes × 3 lengths × 4 sparsities: 48 cells."""
    axes = 1327104 * 4.0 ** np.arange(4), np.array([250e3, 500e3, 1e6]) * 65536, (0.0, 0.5, 0.75, 0.875)
    n, d, s = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    return Points(s, n, d, d)


def vit_points() -> Points:
    """7 sizes × 4 lengths × 3 to 5 sparsities: 112 cells."""
    cells = [
        (s, n, d)
        for i, n in enumerate(663552 * 2.0 ** np.arange(7))
        for d in (225e6, 450e6, 900e6, 1.8e9)
        for s in ((0.0, 0.5, 0.75, 0.875, 0.9375) if i < 2 else (0.0, 0.5, 0.75, 0.875)[: 4 if i < 5 else 3])
    ]
    s, n, d = np.array(cells).T
    return Points(s, n, d, d)


def raw_of(coefficients: dict[str, float], form: str = "sparsity") -> Array:
    """Coefficients [p] in the form's order."""
    return np.array([coefficients[name] for name in get_form(form).names])


def table_of(
    points: Points,
    coefficients: dict[str, float],
    *,
    form: str = "sparsity",
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """A runs table of a law at these points, with log-normal scatter."""
    loss = get_form(form).evaluate(raw_of(coefficients, form), points)
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(loss.size))
    return {
        "sparsity": points.sparsity,
        "nonzero_params": points.nonzero_params,
        "data": points.data,
        "unique_data": points.unique_data,
        "loss": loss,
    }
