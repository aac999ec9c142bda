"""Roll-outs, the ranking of forms, and which runs to do next."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import fitter
from fitter.errors import NotIdentifiedError, SettingError
from fitter.law import Law
from fitter.rollout import far_end
from fitter.suggestion import Design, Target, candidate_grid, first_runs, points_of
from tests.fitter.designs import OPTIMUM_T5, t5_points, table_of, vit_points

DENSE = {"E": 1.7, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}
AVERAGE = {"E": 1.0, "A": 72.0, "alpha": 0.26, "B": 8.7e4, "beta": 0.55}


@pytest.mark.parametrize(
    ("axis", "held", "distance"),
    [("nonzero_params", 12, 4.0), ("data", 16, 2.0), ("sparsity", 12, 2.0)],
)
def test_a_roll_out_holds_out_the_far_level(
    noisy_table: dict[str, Any], axis: str, held: int, distance: float
) -> None:
    result = fitter.roll_out(noisy_table, axis)
    assert (result.law.runs, len(result.runs)) == (48 - held, held)
    assert result.distance == pytest.approx(distance)
    column = noisy_table[axis]
    assert set(getattr(result.runs, axis)) == {column.max()}
    assert result.log_rmse < 0.03
    assert 0.0 <= result.mean_hits <= result.new_run_hits <= 1.0
    assert result.identified == (axis != "data")


def test_the_most_compute_is_a_fifth_of_the_runs(noisy_table: dict[str, Any]) -> None:
    runs = fitter.table.check(noisy_table)
    held = far_end(runs, "flops")
    cost = runs.flops() / (1 - runs.sparsity)
    assert 4 <= held.sum() <= 10
    assert cost[held].min() > cost[~held].max()


def test_a_roll_out_knows_nothing_of_what_it_predicts(noisy_table: dict[str, Any]) -> None:
    spoiled = {**noisy_table, "loss": noisy_table["loss"].copy()}
    far = noisy_table["nonzero_params"] == noisy_table["nonzero_params"].max()
    spoiled["loss"][far] *= 2
    honest, fooled = fitter.roll_out(noisy_table), fitter.roll_out(spoiled)
    assert honest.prediction.loss == pytest.approx(fooled.prediction.loss)
    assert fooled.bias == pytest.approx(honest.bias - np.log(2))


def test_a_wrong_law_is_caught_by_its_roll_out() -> None:
    table = table_of(vit_points(), OPTIMUM_T5, noise=0.002)
    right, wrong = (fitter.roll_out(table, "sparsity", form=form) for form in ("sparsity", "chinchilla"))
    assert right.log_rmse < 0.3 * wrong.log_rmse
    assert right.new_run_hits > 0.7


def test_an_unknown_axis_or_a_single_level_is_refused(noisy_table: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="holds out one of"):
        fitter.roll_out(noisy_table, "width")
    one = {name: column[noisy_table["sparsity"] == 0.5] for name, column in noisy_table.items()}
    with pytest.raises(NotIdentifiedError, match="nothing to hold out"):
        fitter.roll_out(one, "sparsity")


@pytest.mark.parametrize(
    ("form", "truth"), [("sparsity", OPTIMUM_T5), ("average-params", AVERAGE), ("chinchilla", DENSE)]
)
def test_the_form_that_made_the_data_wins(form: str, truth: dict[str, float]) -> None:
    result = fitter.compare(table_of(vit_points(), truth, form=form, noise=0.003))
    best = min(result.contenders, key=lambda c: c.aicc)
    assert best.form == form
    held_out = {c.form: c.held_out for c in result.contenders}
    assert held_out[form] < 1.3 * min(held_out.values())
    assert "data-constrained" in result.left_out


def test_the_sparsity_law_beats_its_rivals_on_the_papers_runs(t5_path: Any) -> None:
    result = fitter.compare(fitter.table.read(t5_path))
    assert result.contenders[0].form == "sparsity"
    assert result.axes == ("nonzero_params", "data", "sparsity", "flops")
    assert result.contenders[0].held_out < 0.5 * result.contenders[1].held_out
    document = json.loads(json.dumps(result.document(), allow_nan=False))
    assert document["forms"][0]["delta_aicc"] == 0.0


def test_suggestions_spend_the_budget_and_promise_what_they_deliver(noisy_table: dict[str, Any]) -> None:
    budget = 3e19
    plan = fitter.suggest(noisy_table, flops=budget)
    assert 0 < plan.flops <= budget
    deviations = [plan.deviation, *(run.deviation for run in plan.runs)]
    assert np.all(np.diff(deviations) < 0)
    done = {
        (round(s, 6), round(np.log(n), 6), round(np.log(d), 6))
        for s, n, d in zip(
            noisy_table["sparsity"], noisy_table["nonzero_params"], noisy_table["data"], strict=True
        )
    }
    for run in plan.runs:
        key = (round(run.sparsity, 6), round(np.log(run.nonzero_params), 6), round(np.log(run.data), 6))
        assert key not in done
    assert json.loads(json.dumps(plan.document()))["target"] == "law"


@pytest.mark.parametrize("target", ["law", "worst"])
def test_the_first_suggestion_is_the_best_single_run(
    noisy_table: dict[str, Any], noisy_law: Law, target: Target
) -> None:
    """Exact on the candidate grid: no other single candidate lowers the variance more per FLOP."""
    runs = fitter.table.check(noisy_table)
    grid = candidate_grid(runs)
    plan = fitter.suggest(noisy_table, flops=1e22, target=target, law=noisy_law, limit=1)
    best = (plan.deviation**2 - plan.runs[0].deviation ** 2) / plan.runs[0].flops
    directions = Design(noisy_law, runs, grid).cells
    for i in range(grid.sparsity.size):
        only = {name: getattr(grid, name)[[i]] for name in ("sparsity", "nonzero_params", "data")}
        single = Design(noisy_law, runs, points_of(only)).choose(
            directions, target=target, flops=np.inf, limit=1
        )
        fall = (single.deviation**2 - single.runs[0].deviation ** 2) / single.runs[0].flops
        assert fall <= best * (1 + 1e-9)


def test_suggestions_for_an_optimum_narrow_that_optimum(noisy_table: dict[str, Any], noisy_law: Law) -> None:
    question = {"nonzero_params": 3e8, "budget": 1e21}
    plan = fitter.suggest(noisy_table, flops=2e20, target="optimum", law=noisy_law, **question)
    cells = {
        name: np.array([getattr(r, name) for r in plan.runs])
        for name in ("sparsity", "nonzero_params", "data")
    }
    loss = noisy_law.predict(cells["sparsity"], cells["nonzero_params"], cells["data"]).loss
    more = {name: np.concatenate([noisy_table[name], cells[name]]) for name in cells}
    more["loss"] = np.concatenate([noisy_table["loss"], loss])
    before, after = (
        law.optimum(question["nonzero_params"], question["budget"])
        for law in (noisy_law, fitter.fit(more, report=False))
    )
    assert after.high - after.low < before.high - before.low


def test_suggest_refuses_half_a_question(noisy_table: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="needs nonzero_params="):
        fitter.suggest(noisy_table, flops=1e20, target="optimum")
    with pytest.raises(SettingError, match="flops must be positive"):
        fitter.suggest(noisy_table, flops=0)
    with pytest.raises(SettingError, match="a dense model is best"):
        fitter.suggest(noisy_table, flops=1e20, target="optimum", nonzero_params=1e12, budget=1e15)


def test_the_first_runs_of_all_cover_every_axis() -> None:
    points = t5_points()
    cells = {"sparsity": points.sparsity, "nonzero_params": points.nonzero_params, "data": points.data}
    order = first_runs(cells, count=20)
    assert len(set(order)) == 20
    for column in cells.values():
        assert np.unique(column[order]).size >= 3
