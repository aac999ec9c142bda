"""Measured accounting: multipliers from the times of runs, and what they make of the optimum."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fitter.accounting import cost_multiplier, measured
from fitter.errors import SettingError
from fitter.law import Law
from fitter.measurement import measured_costs, of_runs


def timed(factor: Any, sizes: Any = (1e6, 4e6), overhead: float = 0.0) -> list[dict[str, float]]:
    """Runs whose time per token is that of a dense model (6 N seconds of 1 FLOP each) times factor(S)."""
    return [
        {
            "sparsity": sparsity,
            "nonzero_params": size,
            "data": data,
            "seconds": (6 * size * factor(sparsity) + overhead) * data,
        }
        for sparsity, size, data in itertools.product((0.0, 0.5, 0.75), sizes, (1e6, 1e7))
    ]


def test_multipliers_are_those_that_the_times_have() -> None:
    costs = measured_costs(timed(lambda sparsity: 1 / (1 - sparsity)))
    assert costs.sparsity == (0.0, 0.5, 0.75)
    assert costs.multiplier == pytest.approx((1, 2, 4))
    assert costs.runs == (4, 4, 4)


def test_a_size_without_a_dense_run_is_compared_between_its_neighbours() -> None:
    table = timed(lambda s: 1 / (1 - s), sizes=(1e6, 2e6, 4e6))
    between = [row for row in table if not (row["sparsity"] == 0 and row["nonzero_params"] == 2e6)]
    assert measured_costs(between).multiplier == pytest.approx((1, 2, 4))
    beyond = [row for row in table if not (row["sparsity"] == 0 and row["nonzero_params"] == 4e6)]
    assert measured_costs(beyond).runs == (4, 4, 4)  # the runs of 4e6 have nothing to be compared with


def test_measured_times_of_dense_kernels_give_the_dense_optimum(noisy_law: Law) -> None:
    costs = measured_costs(timed(lambda sparsity: 1 / (1 - sparsity)))
    question = (1e7, 1e20)
    dense = noisy_law.optimum(*question)
    found = noisy_law.optimum(*question, costs.accounting)
    assert float(found.sparsity) == pytest.approx(float(dense.sparsity), abs=2e-3)
    assert found.accounting == "measured"


def test_beyond_what_was_measured_cost_goes_on_rising() -> None:
    # Held constant, a sparsity of 99.9 % would look free and always win.
    model = measured([0, 0.5, 0.75], [1, 2, 4])
    assert np.allclose(model(np.array([0.25, 0.9, 0.99])), cost_multiplier([0.25, 0.9, 0.99]))
    falling = measured([0, 0.5, 0.75], [1, 2, 1.5])
    assert float(falling(np.array([0.99]))[0]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([{"sparsity": 0.5, "seconds": 1}], "lacks nonzero_params, data"),
        ([{"sparsity": 0.5, "multiplier": 0}], "multiplier in a table of costs must be positive"),
        ([{"sparsity": 1.5, "multiplier": 2}], r"sparsity in a table of costs must be in \[0, 1\)"),
        ([{"sparsity": "x", "multiplier": 2}], "sparsity in a table of costs is not a number"),
        (
            [{"sparsity": 0.5, "nonzero_params": 1, "data": 1, "seconds": 1}],
            "needs the training time of a dense run",
        ),
    ],
)
def test_a_table_that_says_no_costs_is_refused(table: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        measured_costs(table)


def test_runs_without_times_are_said_to_have_none() -> None:
    with pytest.raises(SettingError, match="no completed run of this sweep has one"):
        of_runs([{"sparsity": 0.5, "nonzero_params": 1.0, "data": 1.0, "seconds": None}])
