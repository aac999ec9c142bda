"""The fit reaches the optimum: of the paper's runs, of every planted law, in any units and any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitter
from fitter.errors import NotIdentifiedError, SettingError, TableError
from fitter.forms import Points, get_form
from fitter.law import Law
from fitter.objective import mean_huber, residuals
from tests.fitter.designs import OPTIMUM_T5, PUBLISHED_T5, raw_of, t5_points, table_of, vit_points

QUICK: dict[str, Any] = {"intervals": False, "report": False}


def test_t5_runs_reach_the_true_optimum(t5_law: Law) -> None:
    assert t5_law.objective == pytest.approx(4.8801e-6, rel=1e-5)
    for name, value in OPTIMUM_T5.items():
        assert t5_law.coefficients[name] == pytest.approx(value, rel=2e-4)
    assert t5_law.runs == 48


def test_t5_optimum_is_below_the_published_fit(t5_path: Path, t5_law: Law) -> None:
    runs = fitter.table.check(fitter.table.read(t5_path))
    published = get_form("sparsity").evaluate(raw_of(PUBLISHED_T5), runs.points())
    objective = mean_huber(residuals(published, runs.loss, "log"), 1e-3)
    assert objective == pytest.approx(7.60e-6, rel=5e-3)
    assert t5_law.objective < 0.65 * objective


def test_t5_trust_report_finds_one_basin_and_a_flat_gradient(t5_law: Law) -> None:
    report = t5_law.diagnostics
    assert report["converged"]
    assert report["gradient_norm"] < 1e-6
    assert report["basins"]["share"] == 1.0
    assert report["at_bound"] == []
    assert report["condition"]["projected"] < report["condition"]["normalised"] < report["condition"]["raw"]


@st.composite
def planted(draw: st.DrawFn) -> tuple[Points, dict[str, float], dict[str, Any]]:
    """A law with realistic coefficients, one of the paper's designs, and one of its objectives."""
    points = draw(st.sampled_from([t5_points(), vit_points()]))
    b_s, b_n, b_d = (draw(st.floats(*bounds)) for bounds in ((0.3, 3.0), (0.1, 0.6), (0.1, 1.0)))
    capacity, share = draw(st.floats(0.3, 3.0)), draw(st.floats(0.1, 0.7))
    data_term, c = draw(st.floats(0.05, 1.0)), draw(st.floats(0.0, 4.0))
    middle = float(np.exp(np.log(points.data).mean()))
    law = {
        "a_S": capacity * share * 1e7**b_n,
        "b_S": b_s,
        "c_S": capacity * (1 - share) * 1e7**b_n,
        "b_N": b_n,
        "a_D": middle * data_term ** (1 / b_d),
        "b_D": b_d,
        "c": c,
    }
    objective = draw(st.sampled_from([("log", 1e-3), ("raw", 1e-2)]))
    return points, law, {"residual": objective[0], "huber_delta": objective[1]}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(planted())
def test_every_planted_law_is_recovered(case: tuple[Points, dict[str, float], dict[str, Any]]) -> None:
    points, truth, objective = case
    law = fitter.fit(table_of(points, truth), **QUICK, **objective)
    for name in ("b_S", "b_N", "b_D"):
        assert law.coefficients[name] == pytest.approx(truth[name], rel=1e-6)


@pytest.mark.parametrize(
    ("form", "truth"),
    [
        ("chinchilla", {"E": 1.7, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}),
        ("average-params", {"E": 1.0, "A": 72.0, "alpha": 0.26, "B": 8.7e4, "beta": 0.55}),
    ],
)
def test_planted_laws_of_other_forms_are_recovered(form: str, truth: dict[str, float]) -> None:
    law = fitter.fit(table_of(vit_points(), truth, form=form), form=form, **QUICK)
    for name, value in truth.items():
        assert law.coefficients[name] == pytest.approx(value, rel=1e-6)


def test_planted_data_constrained_law_is_recovered() -> None:
    truth = {"E": 1.9, "A": 520.0, "alpha": 0.35, "B": 1490.0, "beta": 0.36, "R_star": 15.4}
    n, u, repeats = (a.ravel() for a in np.meshgrid([1e7, 1e8, 1e9], [1e8, 1e9, 1e10], [1, 4, 16, 64]))
    points = Points(np.zeros(n.size), n, u * repeats, u)
    law = fitter.fit(table_of(points, truth, form="data-constrained"), form="data-constrained", **QUICK)
    for name, value in truth.items():
        assert law.coefficients[name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("params", "data"), [(1e-6, 1.0), (1.0, 1e-9), (1e3, 1e6)])
def test_units_of_size_and_data_do_not_matter(
    noisy_table: dict[str, Any], noisy_law: Law, params: float, data: float
) -> None:
    scaled = {**noisy_table, "nonzero_params": noisy_table["nonzero_params"] * params}
    scaled |= {"data": noisy_table["data"] * data, "unique_data": noisy_table["unique_data"] * data}
    law = fitter.fit(scaled, **QUICK)
    assert law.objective == pytest.approx(noisy_law.objective, rel=1e-10)
    for name in ("b_S", "b_N", "b_D", "c"):
        assert law.coefficients[name] == pytest.approx(noisy_law.coefficients[name], rel=1e-6)
    assert law.coefficients["a_D"] == pytest.approx(noisy_law.coefficients["a_D"] * data, rel=1e-5)
    scale = params ** noisy_law.coefficients["b_N"]
    assert law.coefficients["a_S"] == pytest.approx(noisy_law.coefficients["a_S"] * scale, rel=1e-5)


def test_the_order_of_rows_does_not_matter(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    order = np.random.default_rng(3).permutation(48)
    law = fitter.fit({name: column[order] for name, column in noisy_table.items()}, **QUICK)
    assert law.objective == pytest.approx(noisy_law.objective, rel=1e-10)
    assert law.data_digest == noisy_law.data_digest


def test_a_fit_repeats_itself_exactly(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    assert fitter.fit(noisy_table) == noisy_law


def test_dataframes_records_and_arrays_give_the_same_law(noisy_table: dict[str, Any]) -> None:
    frame = pd.DataFrame(noisy_table)
    laws = [fitter.fit(t, **QUICK) for t in (noisy_table, frame, frame.to_dict("records"))]
    assert laws[0] == laws[1] == laws[2]


def test_a_table_of_ten_thousand_runs_is_fitted_to_the_same_law() -> None:
    rng = np.random.default_rng(0)
    points = Points(
        rng.choice([0.0, 0.5, 0.75, 0.875, 0.9375], 10_000),
        np.exp(rng.uniform(np.log(1e6), np.log(1e9), 10_000)),
        (data := np.exp(rng.uniform(np.log(1e9), np.log(1e11), 10_000))),
        data,
    )
    law = fitter.fit(table_of(points, OPTIMUM_T5, noise=0.01), **QUICK)
    for name in ("b_S", "b_N", "b_D"):
        assert law.coefficients[name] == pytest.approx(OPTIMUM_T5[name], rel=0.03)
    assert law.diagnostics["converged"]


def test_wild_outliers_are_named_and_hardly_move_the_law() -> None:
    table = table_of(t5_points(), OPTIMUM_T5, noise=0.003)
    table["loss"][[5, 20]] *= 1.5
    law = fitter.fit(table, intervals=False)
    assert {outlier["row"] for outlier in law.diagnostics["outliers"]} >= {6, 21}
    assert max(o["weight"] for o in law.diagnostics["outliers"] if o["row"] in (6, 21)) < 0.01
    assert law.coefficients["b_N"] == pytest.approx(OPTIMUM_T5["b_N"], rel=0.1)


def test_pinned_coefficients_stay_and_the_others_move(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    for name, value in (("c", 0.5), ("a_D", 5e8), ("a_S", 9.0), ("b_N", 0.24)):
        law = fitter.fit(noisy_table, pins={name: value}, **QUICK)
        assert law.coefficients[name] == pytest.approx(value, rel=1e-12)
        assert law.objective > noisy_law.objective


def test_pinning_at_the_optimum_changes_nothing(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    for name in noisy_law.coefficients:
        law = fitter.fit(noisy_table, pins={name: noisy_law.coefficients[name]}, **QUICK)
        assert law.objective == pytest.approx(noisy_law.objective, rel=1e-6)


def test_tied_coefficients_are_equal(noisy_table: dict[str, Any]) -> None:
    law = fitter.fit(noisy_table, ties={"b_D": "b_N"}, **QUICK)
    assert law.coefficients["b_D"] == law.coefficients["b_N"]
    law = fitter.fit(noisy_table, ties={"a_S": "c_S"}, **QUICK)
    assert law.coefficients["a_S"] == pytest.approx(law.coefficients["c_S"])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"pins": {"b_X": 1.0}}, "has no parameter 'b_X'"),
        ({"pins": {"c": -1.0}}, "outside its bounds"),
        ({"ties": {"b_D": "a_D"}}, "units differ"),
        ({"residual": "relative"}, "residual must be"),
        ({"huber_delta": 0.0}, "huber_delta must be a positive"),
        ({"level": 90}, "level must lie between 0 and 1"),
        ({"form": "sparsity-transfer"}, "pass base="),
        ({"base": OPTIMUM_T5}, "takes no base law"),
        ({"weighting": "seed-variance"}, "two or more seeds"),
        ({"pins": OPTIMUM_T5}, "nothing to fit"),
    ],
)
def test_wrong_settings_are_refused(
    noisy_table: dict[str, Any], settings_: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        fitter.fit(noisy_table, **settings_)


def test_transfer_keeps_the_base_and_refits_sparsity(noisy_law: Law) -> None:
    pattern = {**noisy_law.coefficients, "a_S": 30.0, "b_S": 2.752, "c_S": 90.0}
    some = Points(
        *(getattr(t5_points(), name)[::3] for name in ("sparsity", "nonzero_params", "data", "unique_data"))
    )
    law = fitter.fit(table_of(some, pattern), form="sparsity-transfer", base=noisy_law)
    assert {name: law.coefficients[name] for name in ("b_N", "a_D", "b_D", "c")} == {
        name: noisy_law.coefficients[name] for name in ("b_N", "a_D", "b_D", "c")
    }
    assert law.coefficients["b_S"] == pytest.approx(2.752, rel=1e-6)


def test_transfer_intervals_carry_the_uncertainty_of_the_base(noisy_law: Law) -> None:
    table = table_of(t5_points(), dict(noisy_law.coefficients), noise=0.002, seed=4)
    carried = fitter.fit(table, form="sparsity-transfer", base=noisy_law, report=False)
    exact = fitter.fit(table, form="sparsity-transfer", base=dict(noisy_law.coefficients), report=False)
    widths = [law.predict(0.5, 1e9, 1e11).high - law.predict(0.5, 1e9, 1e11).low for law in (carried, exact)]
    assert widths[0] > 1.5 * widths[1]


def test_groups_get_coefficients_of_their_own() -> None:
    first = table_of(t5_points(), OPTIMUM_T5)
    second = table_of(t5_points(), {**OPTIMUM_T5, "b_S": 2.5})
    table = pd.concat(
        [pd.DataFrame(first).assign(pattern="unstructured"), pd.DataFrame(second).assign(pattern="2:4")]
    )
    laws = fitter.fit_groups(table, by=["pattern"], **QUICK)
    assert list(laws) == [("2:4",), ("unstructured",)]
    assert laws["2:4",].coefficients["b_S"] == pytest.approx(2.5, rel=1e-6)
    assert laws["unstructured",].coefficients["b_S"] == pytest.approx(OPTIMUM_T5["b_S"], rel=1e-6)
    together = fitter.fit(table, **QUICK)
    assert together.diagnostics["mixed"] == {"pattern": ["2:4", "unstructured"]}


def test_a_group_that_cannot_be_fitted_is_named() -> None:
    frame = pd.DataFrame(table_of(t5_points(), OPTIMUM_T5)).assign(method="gmp")
    frame.loc[frame["sparsity"] == 0.5, "method"] = "rigl"
    with pytest.raises(TableError, match="group method rigl"):
        fitter.fit_groups(frame, by=["method"], **QUICK)
    with pytest.raises(TableError, match="column 'pattern' to group by is missing"):
        fitter.fit_groups(frame, by=["pattern"])


def test_seeds_that_scatter_more_weigh_less() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(4):
        frame = pd.DataFrame(table_of(t5_points(), OPTIMUM_T5)).assign(seed=seed)
        noise = np.where(frame["nonzero_params"] < 2e6, 0.03, 0.002)
        frames.append(frame.assign(loss=frame["loss"] * np.exp(noise * rng.standard_normal(48))))
    runs = fitter.table.check(pd.concat(frames))
    from fitter.weighting import run_weights

    weights = run_weights(runs, "seed-variance")
    noisy = runs.nonzero_params < 2e6
    assert weights.mean() == pytest.approx(1.0)
    assert weights[noisy].max() < weights[~noisy].min()
    law = fitter.fit(runs, weighting="seed-variance", **QUICK)
    plain = fitter.fit(runs, **QUICK)
    truth = OPTIMUM_T5["b_N"]
    assert abs(law.coefficients["b_N"] - truth) < abs(plain.coefficients["b_N"] - truth) + 0.01


def test_a_table_without_sparsity_cannot_give_the_sparsity_law() -> None:
    table = table_of(t5_points(), OPTIMUM_T5)
    dense = {name: column[table["sparsity"] == 0] for name, column in table.items()}
    with pytest.raises(NotIdentifiedError, match=r"add runs at sparsity 0.5 and 0.75"):
        fitter.fit(dense)
    assert fitter.fit(dense, form="chinchilla", **QUICK).objective < 1e-12
