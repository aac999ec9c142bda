"""Law forms: each states its formula, its derivatives and its change of units, and they agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitter.errors import SettingError
from fitter.forms import REGISTRY, Points, Scales, get_form
from tests.fitter.designs import OPTIMUM_T5, raw_of, t5_points

LAWS = {
    "sparsity": list(OPTIMUM_T5.values()),
    "sparsity-transfer": list(OPTIMUM_T5.values()),
    "chinchilla": [1.7, 406.4, 0.34, 410.7, 0.28],
    "average-params": [1.0, 72.0, 0.26, 8.7e4, 0.55],
    "data-constrained": [1.9, 520.0, 0.35, 1490.0, 0.36, 15.4],
}
POINTS = Points(
    sparsity=np.array([0.0, 0.5, 0.75, 0.9]),
    nonzero_params=np.array([1e6, 3e7, 2e8, 5e9]),
    data=np.array([1e9, 4e9, 1e11, 2e12]),
    unique_data=np.array([1e9, 1e9, 2e10, 1e12]),
)
SCALES = Scales(density=0.35, nonzero_params=2e7, data=3e10)


def test_every_registered_form_is_tested_here() -> None:
    assert set(LAWS) == set(REGISTRY)


@pytest.mark.parametrize("name", LAWS)
def test_jacobian_matches_finite_differences(name: str) -> None:
    form = get_form(name)
    inputs = form.inputs(POINTS, SCALES)
    working = form.to_working(np.array(LAWS[name]), SCALES)
    value, jacobian = form.value_and_jacobian(working, inputs)
    assert value == pytest.approx(form.value(working, inputs))
    for index in range(working.size):
        step = np.zeros_like(working)
        step[index] = 1e-6 * max(abs(working[index]), 1e-3)
        slope = (form.value(working + step, inputs) - form.value(working - step, inputs)) / (2 * step[index])
        assert jacobian[index] == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_working_and_raw_parameters_are_inverse_to_each_other(name: str) -> None:
    form, raw = get_form(name), np.array(LAWS[name])
    assert form.to_raw(form.to_working(raw, SCALES), SCALES) == pytest.approx(raw, rel=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_normalised_units_do_not_change_the_loss(name: str) -> None:
    form, raw = get_form(name), np.array(LAWS[name])
    normalised = form.value(form.to_working(raw, SCALES), form.inputs(POINTS, SCALES))
    assert normalised == pytest.approx(form.evaluate(raw, POINTS), rel=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_batches_evaluate_as_single_laws_do(name: str) -> None:
    form, raw = get_form(name), np.array(LAWS[name])
    batch = np.stack([raw, raw * 1.01])
    both = form.evaluate(batch, POINTS)
    assert both[0] == pytest.approx(form.evaluate(batch[0], POINTS))
    assert both[1] == pytest.approx(form.evaluate(batch[1], POINTS))


def test_sparsity_law_is_the_papers_equation() -> None:
    a_s, b_s, c_s, b_n, a_d, b_d, c = LAWS["sparsity"]
    s, n, d = POINTS.sparsity, POINTS.nonzero_params, POINTS.data
    expected = (a_s * (1 - s) ** b_s + c_s) * n**-b_n + (a_d / d) ** b_d + c
    assert get_form("sparsity").evaluate(np.array(LAWS["sparsity"]), POINTS) == pytest.approx(expected)


def test_average_params_counts_the_mean_over_the_schedule() -> None:
    """Dense to 25 %, cubic to 75 %, then fixed: the mean density at S = 0.5 is 0.25 + 0.5 · 0.625 + 0.25 · 0.5."""
    e, a, alpha, b, beta = LAWS["average-params"]
    point = Points(*(np.array([x]) for x in (0.5, 1e7, 1e9, 1e9)))
    mean = (0.25 + 0.5 * 0.625 + 0.25 * 0.5) / 0.5
    expected = e + a * (1e7 * mean) ** -alpha + b * 1e9**-beta
    assert get_form("average-params").evaluate(np.array(LAWS["average-params"]), point)[0] == pytest.approx(
        expected
    )


def test_data_constrained_equals_chinchilla_without_repeats() -> None:
    fresh = Points(POINTS.sparsity, POINTS.nonzero_params, POINTS.data, POINTS.data)
    raw = np.array(LAWS["data-constrained"])
    expected = get_form("chinchilla").evaluate(raw[:5], fresh)
    assert get_form("data-constrained").evaluate(raw, fresh) == pytest.approx(expected)


def test_data_constrained_repeats_are_worth_less_than_fresh_data() -> None:
    raw = np.array(LAWS["data-constrained"])
    form = get_form("data-constrained")
    repeated = form.evaluate(raw, Points(*(np.array([x]) for x in (0.0, 1e8, 1e11, 1e10))))
    fresh = form.evaluate(raw, Points(*(np.array([x]) for x in (0.0, 1e8, 1e11, 1e11))))
    assert repeated > fresh


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 0.95), st.floats(1e5, 1e10), st.floats(1e8, 1e13))
def test_questions_for_data_and_size_invert_the_law(sparsity: float, size: float, data: float) -> None:
    for name in ("sparsity", "chinchilla", "average-params"):
        form, raw = get_form(name), np.array(LAWS[name])[None]
        s, n, d = (np.array([x]) for x in (sparsity, size, data))
        loss = form.evaluate(raw[0], Points(s, n, d, d))
        found_data = form.data_for_loss(raw, loss, s, n)
        found_size = form.params_for_loss(raw, loss, s, d)
        assert found_data is not None
        assert found_size is not None
        assert form.evaluate(raw[0], Points(s, n, found_data[0], found_data[0])) == pytest.approx(
            loss, rel=1e-9
        )
        assert found_size[0, 0] == pytest.approx(size, rel=1e-5)


def test_gain_is_one_without_sparsity_and_grows_with_it() -> None:
    gain = get_form("sparsity").gain(raw_of(OPTIMUM_T5), np.linspace(0, 0.95, 20))
    assert gain is not None
    assert gain[0] == pytest.approx(1.0)
    assert np.all(np.diff(gain) > 0)


def test_unknown_form_names_the_known_ones() -> None:
    with pytest.raises(SettingError, match="'power' is unknown; known are sparsity"):
        get_form("power")


def test_scales_are_geometric_means() -> None:
    scales = get_form("sparsity").scales(t5_points(), {}, frozenset())
    assert scales.nonzero_params == pytest.approx(1327104 * 8)
    assert scales.data == pytest.approx(500e3 * 65536)
