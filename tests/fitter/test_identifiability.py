"""The gate says what is missing, and which runs would supply it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitter
from fitter.errors import NotIdentifiedError
from fitter.forms import Points
from fitter.identifiability import gate
from tests.fitter.designs import OPTIMUM_T5, t5_points, table_of


def grid(sparsities: list[float], sizes: list[float], data: list[float]) -> dict[str, Any]:
    """A full grid of the T5 law."""
    s, n, d = (a.ravel() for a in np.meshgrid(sparsities, sizes, data))
    return table_of(Points(s, n, d, d), OPTIMUM_T5)


def test_the_papers_design_passes_and_its_short_axis_is_called_weak() -> None:
    verdict = gate(table_of(t5_points(), OPTIMUM_T5))
    assert verdict.identified
    assert verdict.missing == []
    assert verdict.levels == {"sparsity": 4, "nonzero_params": 4, "data": 3}
    assert verdict.spans["data"] == pytest.approx(4.0)
    assert len(verdict.weak) == 1
    assert "data spans a factor of 4" in verdict.weak[0]
    assert (verdict.cells, verdict.parameters) == (48, 7)


def test_one_level_of_sparsity_is_not_enough() -> None:
    table = grid([0.0], [1e6, 4e6, 16e6, 64e6], [1e9, 2e9, 4e9])
    verdict = gate(table)
    assert not verdict.identified
    assert any("sparsity has 1 level (0)" in sentence for sentence in verdict.missing)
    assert any("add runs at sparsity 0.5 and 0.75" in sentence for sentence in verdict.missing)
    with pytest.raises(NotIdentifiedError) as caught:
        fitter.fit(table)
    assert caught.value.missing == verdict.missing


def test_two_lengths_leave_the_constant_open_and_the_next_length_is_named() -> None:
    verdict = gate(grid([0.0, 0.5, 0.75], [1e6, 4e6, 16e6], [1e9, 2e9]))
    assert verdict.missing == [
        "data has 2 levels (1e+09, 2e+09), the law 'sparsity' needs 3: add runs at data 4e+09"
    ]


def test_sizes_that_rounding_sets_apart_are_one_level() -> None:
    table = grid([0.0, 0.5, 0.75], [15_984.0, 16_016.0, 32_000.0], [1e6, 2e6, 4e6])
    verdict = gate(table)
    assert verdict.levels["nonzero_params"] == 2
    assert verdict.missing == [
        "nonzero_params has 2 levels (15984, 32000), the law 'sparsity' needs 3: add runs at nonzero_params 64064.1"
    ]


def test_a_grid_whose_axes_move_together_but_for_rounding_is_refused() -> None:
    design = [(s, n * (1 + 1e-3 * s), n * 100) for s in (0.0, 0.5, 0.75) for n in (1e4, 2e4, 4e4, 8e4)]
    s, n, d = (np.array(axis) for axis in zip(*design, strict=True))
    verdict = gate(table_of(Points(s, n, d, d), OPTIMUM_T5))
    assert any("nonzero_params and data move together" in sentence for sentence in verdict.missing)


def test_sizes_drawn_from_a_continuum_keep_their_span() -> None:
    rng = np.random.default_rng(0)
    n, d = (
        np.exp(rng.uniform(np.log(1e6), np.log(1e8), 400)),
        np.exp(rng.uniform(np.log(1e9), np.log(1e11), 400)),
    )
    s = rng.choice([0.0, 0.5, 0.75, 0.875], 400)
    verdict = gate(table_of(Points(s, n, d, d), OPTIMUM_T5))
    assert verdict.identified
    assert verdict.levels["nonzero_params"] > 100


def test_pinned_coefficients_need_no_runs() -> None:
    table = grid([0.0, 0.5, 0.75], [1e6, 4e6, 16e6], [1e9, 2e9])
    assert gate(table, pins={"c": 0.8}).identified
    assert gate(table, "chinchilla").missing


def test_fewer_cells_than_parameters_are_refused() -> None:
    table = grid([0.0, 0.5, 0.75], [1e6, 4e6, 16e6], [1e9, 2e9, 4e9])
    few = {name: column[[0, 4, 8, 12, 16, 20, 26]] for name, column in table.items()}
    assert any("7 distinct cells for 7 free parameters" in sentence for sentence in gate(few).missing)


def test_seeds_do_not_count_as_cells() -> None:
    table = grid([0.0, 0.5, 0.75], [1e6, 4e6, 16e6], [1e9, 2e9, 4e9])
    seeds = {name: np.concatenate([column, column]) for name, column in table.items()}
    seeds["seed"] = np.repeat([0, 1], 27)
    assert gate(seeds).cells == 27


def test_axes_that_move_together_are_told() -> None:
    s, n = (a.ravel() for a in np.meshgrid([0.0, 0.5, 0.75], [1e6, 4e6, 16e6, 64e6]))
    verdict = gate(table_of(Points(s, n, 20 * n, 20 * n), OPTIMUM_T5))
    assert not verdict.identified
    assert "nonzero_params and data move together" in verdict.missing[0]


def test_continuous_designs_are_not_mistaken_for_such() -> None:
    random = np.random.default_rng(0)
    n, d = np.exp(random.uniform(14, 20, 60)), np.exp(random.uniform(20, 25, 60))
    assert gate(table_of(Points(random.choice([0, 0.5, 0.75], 60), n, d, d), OPTIMUM_T5)).identified


def test_repeats_need_a_column_that_says_so() -> None:
    verdict = gate(table_of(t5_points(), OPTIMUM_T5), "data-constrained")
    assert any("add a unique_data column" in sentence for sentence in verdict.missing)


def test_a_transfer_needs_sparsities_only() -> None:
    table = grid([0.0, 0.5, 0.75, 0.9], [4e6], [2e9])
    assert not gate(table).identified
    assert gate(table, "sparsity-transfer").identified


def test_the_verdict_is_json_ready() -> None:
    document = gate(table_of(t5_points(), OPTIMUM_T5)).document()
    assert document["identified"] is True
    assert set(document) >= {"missing", "weak", "levels", "spans"}
