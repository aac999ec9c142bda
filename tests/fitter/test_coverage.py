"""90 % intervals hold the truth between 85 % and 95 % of the time.

Sweeps of the paper's shapes are simulated with known scatter. To keep the suite short the refits start at the
truth's own basin; benchmarks/coverage.py does the same through `fitter.fit`, at length.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fitter.bootstrap import bootstrap
from fitter.forms import Points, get_form
from fitter.intervals import bounds
from fitter.optimum import optimal_sparsity
from fitter.problem import build_problem
from fitter.solver import solve_in_parts
from tests.fitter.designs import OPTIMUM_T5, PUBLISHED_VIT, raw_of, t5_points, vit_points

Array = NDArray[np.float64]

SWEEPS, DRAWS = 160, 100
FORM = get_form("sparsity")


def quantities(raw: Array, flops: float) -> Array:
    """b_S, b_N, gain(0.75) and S_opt at 21 M parameters, [..., 4], of raw coefficients [B, 7]."""
    optimal = optimal_sparsity(FORM, raw, np.array([2.1e7]), np.array([flops]), "dense")[:, 0]
    return np.stack([raw[:, 1], raw[:, 3], FORM.gain(raw, np.array([0.75]))[:, 0], optimal], axis=-1)


def budget(truth: Array) -> float:
    """FLOPs at which 60 % sparsity is optimal."""
    flops = np.geomspace(1e14, 1e25, 2000)
    found = optimal_sparsity(FORM, truth[None], np.full(2000, 2.1e7), flops, "dense")[0]
    return float(flops[np.abs(found - 0.6).argmin()])


@pytest.mark.parametrize("noise", [0.005, 0.01])
@pytest.mark.parametrize(
    ("points", "law"),
    [(t5_points(), OPTIMUM_T5), (vit_points(), PUBLISHED_VIT)],
    ids=["T5", "ViT"],
)
def test_intervals_cover_as_often_as_they_say(points: Points, law: dict[str, float], noise: float) -> None:
    truth = raw_of(law)
    exact = FORM.evaluate(truth, points)
    flops = budget(truth)
    true = quantities(truth[None], flops)[0]
    random = np.random.default_rng(20)
    problem = build_problem(FORM, points, exact)
    losses = np.log(exact) + noise * random.standard_normal((SWEEPS, exact.size))
    fits = solve_in_parts(problem, np.tile(problem.free_of(truth), (SWEEPS, 1)), targets=losses)
    cells = np.arange(exact.size)
    hits = []
    for index in range(SWEEPS):
        sweep = build_problem(FORM, points, np.exp(losses[index]))
        draws = bootstrap(sweep, fits.free[index], cells, count=DRAWS, seed=index)
        low, high = bounds(quantities(sweep.raw(draws.free), flops), 0.9)
        hits.append((low <= true) & (true <= high))
    cover = dict(zip(("b_S", "b_N", "gain(0.75)", "S_opt"), np.mean(hits, axis=0), strict=True))
    assert all(0.85 <= share <= 0.95 for share in cover.values()), cover
