"""What intervals mean: new runs, profiles, seeds, basins, and what is not identified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import fitter
from fitter.bootstrap import bootstrap, scatter
from fitter.errors import SettingError
from fitter.forms import get_form
from fitter.intervals import bounds, coefficient_intervals
from fitter.law import Law
from fitter.problem import build_problem
from tests.fitter.designs import OPTIMUM_T5, raw_of, t5_points, table_of, vit_points


def test_new_run_intervals_hold_new_runs() -> None:
    law = fitter.fit(table_of(vit_points(), OPTIMUM_T5, noise=0.01, seed=5), report=False)
    points = t5_points()
    inside = points.nonzero_params < 4e7
    fresh = [table_of(points, OPTIMUM_T5, noise=0.01, seed=100 + i)["loss"][inside] for i in range(20)]
    found = law.predict(points.sparsity[inside], points.nonzero_params[inside], points.data[inside] / 30)
    expected = get_form("sparsity").evaluate(raw_of(OPTIMUM_T5), points)[inside]
    # the same relative scatter about the truth at points within the fitted range
    shifted = get_form("sparsity").evaluate(
        raw_of(OPTIMUM_T5),
        type(points)(
            points.sparsity[inside],
            points.nonzero_params[inside],
            points.data[inside] / 30,
            points.data[inside] / 30,
        ),
    )
    runs = [loss / expected * shifted for loss in fresh]
    share = np.mean([(found.new_run_low <= run) & (run <= found.new_run_high) for run in runs])
    assert 0.84 <= share <= 0.97


def test_interpolated_runs_are_given_typical_scatter(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    runs = fitter.table.check(noisy_table)
    problem = build_problem(get_form("sparsity"), runs.points(), runs.loss)
    sizes = np.abs(scatter(problem, problem.free_of(noisy_law.raw)))
    assert np.sqrt(np.mean(sizes**2)) > noisy_law.diagnostics["rms_residual"]
    assert np.sqrt(np.mean(sizes**2)) == pytest.approx(0.005, rel=0.3)


def test_more_scatter_gives_wider_intervals() -> None:
    widths = []
    for noise in (0.002, 0.008):
        law = fitter.fit(table_of(t5_points(), OPTIMUM_T5, noise=noise), report=False)
        widths.append(law.gain["0.75"]["high"] - law.gain["0.75"]["low"])
    assert 2.0 < widths[1] / widths[0] < 8.0


def test_without_scatter_intervals_close_on_the_truth() -> None:
    law = fitter.fit(table_of(t5_points(), OPTIMUM_T5))
    for name, interval in law.intervals.items():
        assert interval["low"] == pytest.approx(OPTIMUM_T5[name], rel=1e-4)
        assert interval["high"] == pytest.approx(OPTIMUM_T5[name], rel=1e-4)


def test_data_coefficients_are_identified_where_data_spans_enough() -> None:
    law = fitter.fit(
        table_of(vit_points(), {**OPTIMUM_T5, "a_D": 2e8, "b_D": 0.9}, noise=0.002), report=False
    )
    assert law.intervals["b_D"]["identified"]
    short = fitter.fit(table_of(t5_points(), OPTIMUM_T5, noise=0.01), report=False)
    assert not short.intervals["b_D"]["identified"]
    assert not short.intervals["c"]["identified"]
    assert short.intervals["b_N"]["identified"]


def test_one_unidentified_coefficient_takes_its_family_along() -> None:
    draws = np.column_stack([np.geomspace(1, 10, 100), np.linspace(1.0, 1.1, 100), np.linspace(2, 2.2, 100)])
    limits = [(0.0, np.inf)] * 3
    found = coefficient_intervals(["scale", "exponent", "other"], draws, limits, [("scale", "exponent")], 0.9)
    assert found["scale"]["low"] is None
    assert found["exponent"] == {"low": None, "high": None, "level": 0.9, "identified": False}
    assert found["other"]["identified"]


def test_seeds_of_a_cell_are_resampled_together() -> None:
    frames = [
        pd.DataFrame(table_of(t5_points(), OPTIMUM_T5, noise=0.004, seed=3)).assign(seed=i) for i in range(3)
    ]
    runs = fitter.table.check(pd.concat(frames))
    assert np.unique(runs.cells()).size == 48
    copies = fitter.fit(runs, report=False)
    single = fitter.fit(frames[0], report=False)
    # three identical copies of a sweep hold no more than the sweep itself
    width = [law.intervals["b_N"]["high"] - law.intervals["b_N"]["low"] for law in (copies, single)]
    assert width[0] == pytest.approx(width[1], rel=0.35)


def test_replicates_keep_the_better_of_two_basins() -> None:
    runs = fitter.table.check(table_of(t5_points(), OPTIMUM_T5, noise=0.005))
    problem = build_problem(get_form("sparsity"), runs.points(), runs.loss)
    good = problem.free_of(
        np.array(list(fitter.fit(runs, intervals=False, report=False).coefficients.values()))
    )
    far = good.copy()
    far[-3:] = (6.0, 1.5, 3.0)
    alone = bootstrap(problem, good, np.arange(48), count=60, method="pairs")
    guarded = bootstrap(problem, far, np.arange(48), count=60, method="pairs", rivals=good[None])
    assert np.median(problem.raw(guarded.free)[:, 3]) == pytest.approx(
        np.median(problem.raw(alone.free)[:, 3]), rel=1e-3
    )


@pytest.mark.parametrize("method", ["wild", "pairs", "both"])
def test_each_bootstrap_gives_draws_around_the_fit(
    noisy_table: dict[str, Any], noisy_law: Law, method: Any
) -> None:
    law = fitter.fit(noisy_table, bootstrap_method=method, draws=200, report=False)
    assert law.draws.shape == (200, 7)
    low, high = bounds(law.draws[:, 3], 0.9)
    assert low < noisy_law.coefficients["b_N"] < high


def test_bootstrap_settings_are_checked(noisy_table: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="both, wild or pairs"):
        fitter.fit(noisy_table, bootstrap_method="jackknife")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="at least one draw"):
        fitter.fit(noisy_table, draws=0)


def test_profiles_agree_with_the_bootstrap(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    found = fitter.profiles(noisy_law, noisy_table, names=["b_S", "b_N"])
    for name, profile in found.items():
        low, high = noisy_law.intervals[name]["low"], noisy_law.intervals[name]["high"]
        assert profile.low is not None
        assert profile.high is not None
        assert profile.low < noisy_law.coefficients[name] < profile.high
        assert (profile.high - profile.low) == pytest.approx(high - low, rel=0.5)
        assert profile.statistic.min() == 0.0


def test_a_profile_without_a_limit_says_so(t5_path: Any, t5_law: Law) -> None:
    """c of the paper's T5 runs: values down to nothing fit almost as well."""
    profile = fitter.profiles(t5_law, fitter.table.read(t5_path), names=["c"])["c"]
    assert profile.low is None
    assert profile.high is not None


def test_profiles_need_the_fitted_table(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    with pytest.raises(SettingError, match="this one differs"):
        fitter.profiles(noisy_law, table_of(t5_points(), OPTIMUM_T5))
    with pytest.raises(SettingError, match="not free in this fit: b_X"):
        fitter.profiles(noisy_law, noisy_table, names=["b_X"])


def test_the_trust_report_shows_how_the_answer_depends_on_choices(noisy_law: Law) -> None:
    report = noisy_law.diagnostics["sensitivity"]
    assert [entry["huber_delta"] for entry in report["huber_delta"]] == pytest.approx(
        [1e-4, 3.16e-4, 3.16e-3, 1e-2, 1e-1], rel=1e-2
    )
    assert report["residual"]["residual"] == "raw"
    axes = [entry["axis"] for entry in report["leave_one_level_out"]]
    assert axes == ["sparsity"] * 4 + ["nonzero_params"] * 4 + ["data"] * 3
    for entry in report["leave_one_level_out"]:
        assert entry["runs_left"] in (32, 36)
        assert entry["left_out_log_rmse"] < 0.05


def test_leaving_a_level_out_equals_fitting_without_it(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    entry = noisy_law.diagnostics["sensitivity"]["leave_one_level_out"][3]
    rest = {name: column[noisy_table["sparsity"] != entry["level"]] for name, column in noisy_table.items()}
    law = fitter.fit(rest, intervals=False, report=False)
    assert entry["coefficients"]["b_N"] == pytest.approx(law.coefficients["b_N"], rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_a_law_of_mere_noise_is_still_a_sound_document(seed: int) -> None:
    """Losses that follow no law: whatever comes out is finite JSON, and claims to identify little."""
    table = table_of(t5_points(), OPTIMUM_T5)
    table["loss"] = np.exp(np.random.default_rng(seed).normal(0.7, 0.3, 48))
    law = fitter.fit(table, draws=60)
    assert Law.from_json(law.to_json()) == law
    assert sum(interval["identified"] for interval in law.intervals.values()) <= 3
