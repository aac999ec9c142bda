"""Optimal sparsity: closed form against numeric, any schedule, contours, inverse questions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitter
from fitter.accounting import GradualPruning, cost_multiplier, mean_density, measured
from fitter.errors import SettingError
from fitter.forms import get_form
from fitter.law import Law
from fitter.optimum import minimise_over_sparsity
from tests.fitter.designs import OPTIMUM_T5, PUBLISHED_T5, PUBLISHED_VIT

LAWS = {"T5 optimum": OPTIMUM_T5, "T5 published": PUBLISHED_T5, "ViT published": PUBLISHED_VIT}


def test_dense_accounting_charges_masked_weights() -> None:
    assert cost_multiplier([0.0, 0.5, 0.75], "dense") == pytest.approx([1.0, 2.0, 4.0])


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.75, 0.9375])
def test_sparse_accounting_is_the_papers_formula(sparsity: float) -> None:
    expected = (0.25 + 0.50 * (1 - 0.75 * sparsity)) / (1 - sparsity) + 0.25
    assert cost_multiplier(sparsity, "sparse") == pytest.approx(expected, rel=1e-12)
    assert cost_multiplier(sparsity, GradualPruning()) == pytest.approx(expected, rel=1e-12)


def test_schedules_are_integrated_whatever_their_shape() -> None:
    class OneShot:
        def sparsity_at(self, progress: np.ndarray, target: np.ndarray) -> np.ndarray:
            return np.where(progress < 0.4, 0.0, target)

    many = np.linspace(0, 0.9, 100)
    assert mean_density(OneShot(), many) == pytest.approx(0.4 + 0.6 * (1 - many))
    linear = GradualPruning(start=0.0, end=1.0, power=1.0)
    assert mean_density(linear, 0.6) == pytest.approx(0.7)


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=40, deadline=None)
@given(st.floats(5.5, 10), st.floats(0, 6))
def test_closed_form_agrees_with_numeric_minimisation(name: str, log_n: float, more: float) -> None:
    law, form = Law.known(LAWS[name]), get_form("sparsity")
    n = np.array([10**log_n])
    flops = np.asarray(law.contours([0.0], n).dense_flops) * 10**more
    closed = form.dense_optimal_sparsity(law.raw[None], n, flops)
    assert closed is not None
    numeric = minimise_over_sparsity(form, law.raw[None], n, flops, "dense")
    assert numeric[0, 0] == pytest.approx(min(closed[0, 0], 0.999), abs=1e-4)


def test_no_compute_no_sparsity(noisy_law: Law) -> None:
    optimum = noisy_law.optimum(1e9, 1e17)
    assert optimum.sparsity == 0.0
    assert optimum.loss == pytest.approx(optimum.dense_loss)


def test_the_optimum_is_better_than_its_neighbours(noisy_law: Law) -> None:
    for accounting in ("dense", "sparse", GradualPruning(0.1, 0.4)):
        n, flops = 2e7, 3e19
        best = noisy_law.optimum(n, flops, accounting)
        around = np.clip(best.sparsity + np.array([-0.02, 0.0, 0.02]), 0, 0.99)
        data = flops / (6 * n * cost_multiplier(around, accounting))
        loss = noisy_law.predict(around, n, data).loss
        assert loss[1] == loss.min()
        assert best.data == pytest.approx(data[1])
        assert best.low <= best.sparsity <= best.high


def test_measured_throughput_stands_in_for_counting() -> None:
    law = Law.known(OPTIMUM_T5)
    at = np.linspace(0, 0.99, 200)
    as_dense = measured(at, cost_multiplier(at, "dense"))
    assert law.optimum(2e7, 1e20, as_dense).sparsity == pytest.approx(
        float(law.optimum(2e7, 1e20).sparsity), abs=2e-3
    )
    with pytest.raises(SettingError, match="needs measurements"):
        law.optimum(2e7, 1e20, "measured")
    with pytest.raises(SettingError, match="must ascend"):
        measured([0.5, 0.0], [2.0, 1.0])


def test_questions_are_vectorised(noisy_law: Law) -> None:
    optimum = noisy_law.optimum(np.array([1e7, 1e8])[:, None], np.array([1e19, 1e20, 1e21]), "sparse")
    assert optimum.sparsity.shape == optimum.low.shape == (2, 3)
    assert np.all(np.diff(optimum.sparsity, axis=1) > 0)
    single = noisy_law.optimum(1e8, 1e21, "sparse")
    assert single.sparsity == pytest.approx(optimum.sparsity[1, 2], abs=1e-6)


def test_extrapolation_is_flagged(noisy_law: Law) -> None:
    assert bool(noisy_law.optimum(1e12, 1e27).extrapolates)
    inside = noisy_law.contours([0.75], [3e6])
    assert 16.384e9 < inside.data[0, 0] < 65.536e9
    assert not bool(noisy_law.optimum(3e6, float(inside.flops[0, 0])).extrapolates)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("accounting", ["dense", "sparse"])
def test_on_a_contour_its_sparsity_is_optimal(name: str, accounting: str) -> None:
    law = Law.known(LAWS[name])
    contours = law.contours([0.5, 0.75], [1e7, 1e8, 1e9], accounting)
    optimum = law.optimum(np.array([1e7, 1e8, 1e9]), contours.flops, accounting)
    assert optimum.sparsity == pytest.approx(np.array([[0.5] * 3, [0.75] * 3]), abs=1e-4)
    assert optimum.data == pytest.approx(contours.data, rel=1e-3)


@pytest.mark.parametrize("name", LAWS)
def test_contours_run_parallel_to_the_dense_optimal_line(name: str) -> None:
    contours = Law.known(LAWS[name]).contours([0.0, 0.5, 0.75], np.geomspace(1e6, 1e10, 7), "sparse")
    ratio = contours.flops / contours.dense_flops
    assert ratio == pytest.approx(np.repeat(ratio[:, :1], 7, axis=1))


def test_half_sparse_pays_at_about_twice_and_thrice_the_dense_optimal_compute() -> None:
    """Paper, section 3.3: the 50 % contours for ViT and T5 under sparse accounting, read off its figure."""
    asked = {"accounting": "sparse", "unit": "times dense-optimal"}
    assert fitter.pays_from(Law.known(PUBLISHED_VIT), 0.5, 2e7, **asked).value == pytest.approx(2, abs=0.5)
    assert fitter.pays_from(Law.known(PUBLISHED_T5), 0.5, 2e7, **asked).value == pytest.approx(3, abs=0.6)


def test_dense_optimal_line_minimises_the_dense_loss() -> None:
    law = Law.known(PUBLISHED_T5)
    flops = float(law.contours([0.0], [1e8]).dense_flops[0])
    sizes = 1e8 * np.array([0.9, 1.0, 1.1])
    loss = law.predict(0.0, sizes, flops / (6 * sizes)).loss
    assert loss[1] == loss.min()


def test_inverse_questions_invert_the_prediction(noisy_law: Law) -> None:
    loss = float(noisy_law.predict(0.5, 2e7, 4e10).loss)
    data = fitter.data_for_loss(noisy_law, loss, 0.5, 2e7)
    size = fitter.params_for_loss(noisy_law, loss, 0.5, 4e10)
    assert data.value == pytest.approx(4e10, rel=1e-6)
    assert size.value == pytest.approx(2e7, rel=1e-6)
    assert data.low < data.value < data.high
    assert size.low < size.value < size.high
    assert np.isinf(fitter.data_for_loss(noisy_law, 0.1, 0.5, 2e7).value)


def test_the_cheapest_run_reaches_the_loss_and_beats_what_is_held_fixed(noisy_law: Law) -> None:
    free = fitter.compute_for_loss(noisy_law, 1.9)
    reached = noisy_law.predict(free.sparsity, free.nonzero_params, free.data).loss
    assert reached == pytest.approx(1.9, rel=1e-6)
    for held in ({"sparsity": 0.0}, {"sparsity": 0.75}, {"nonzero_params": 3e7}):
        assert fitter.compute_for_loss(noisy_law, 1.9, **held).flops >= free.flops
    assert free.low < free.flops < free.high


def test_the_dense_equivalent_has_the_same_loss(noisy_law: Law) -> None:
    equivalent = fitter.dense_equivalent(noisy_law, 0.75, 1e7)
    assert noisy_law.predict(0.0, equivalent.value, 3e10).loss == pytest.approx(
        noisy_law.predict(0.75, 1e7, 3e10).loss
    )


def test_half_sparse_ties_with_dense_where_it_starts_to_pay(noisy_law: Law) -> None:
    n = 2e7
    data = fitter.pays_from(noisy_law, 0.5, n, against="dense").value
    sparse = noisy_law.predict(0.5, n, data).loss
    assert noisy_law.predict(0.0, n, data * 2.0).loss == pytest.approx(sparse, rel=1e-9)
    assert data < fitter.pays_from(noisy_law, 0.5, n).value


def test_average_params_has_an_optimum_of_its_own() -> None:
    law = Law.known({"E": 1.0, "A": 72.0, "alpha": 0.26, "B": 8.7e4, "beta": 0.55}, "average-params")
    contour = law.contours([0.5], [1e8], "sparse")
    assert law.optimum(1e8, float(contour.flops[0, 0]), "sparse").sparsity == pytest.approx(0.5, abs=1e-3)
