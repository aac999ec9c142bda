"""Figures show what they say: the right curves, marks and axes, in a reproducible vector file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitter
from fitter import figures
from fitter.errors import SettingError
from fitter.law import Law
from tests.fitter.designs import PUBLISHED_T5


def test_loss_panels_show_every_run_and_the_curves(noisy_law: Law, noisy_table: dict[str, Any]) -> None:
    figure = figures.loss_against_params(noisy_law, noisy_table)
    assert len(figure.axes) == 3
    marks = sum(
        len(line.get_xdata()) for axis in figure.axes for line in axis.lines if line.get_linestyle() == "None"
    )
    assert marks == 48
    curve = figure.axes[0].lines[0]
    assert curve.get_ydata() == pytest.approx(noisy_law.predict(0.0, curve.get_xdata(), 16.384e9).loss)


def test_held_out_runs_are_marked_apart(noisy_law: Law, noisy_table: dict[str, Any]) -> None:
    held = fitter.roll_out(noisy_table, "nonzero_params")
    figure = figures.predicted_against_measured(noisy_law, noisy_table, held_out=held)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["fitted", "held out (largest N)"]
    measured = np.concatenate([c.lines[0].get_xdata() for c in figure.axes[0].containers])
    assert np.sort(measured) == pytest.approx(np.sort(noisy_table["loss"]))


def test_contours_carry_the_dense_optimal_line(noisy_law: Law, noisy_table: dict[str, Any]) -> None:
    figure = figures.sparsity_contours(noisy_law, [0.0, 0.5], accounting="sparse", table=noisy_table)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["sparsity starts to pay", "S_opt = 50 %", "dense-optimal", "runs"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_gain_starts_at_one_and_marks_where_the_runs_end(noisy_law: Law) -> None:
    figure = figures.gain_curve(noisy_law, others={"published": Law.known(PUBLISHED_T5)})
    lines = figure.axes[0].lines
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([1.0, 1.0])
    assert "beyond the runs" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_residual_panels_show_each_run_once(noisy_law: Law, noisy_table: dict[str, Any]) -> None:
    figure = figures.residuals(noisy_law, noisy_table)
    marks = [
        sum(len(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "None")
        for axis in figure.axes
    ]
    assert marks == [48, 48, 48]


def test_profiles_are_one_panel_each(noisy_law: Law, noisy_table: dict[str, Any]) -> None:
    found = fitter.profiles(noisy_law, noisy_table, names=["b_S", "b_N"])
    figure = figures.profiles(found, noisy_law)
    assert [axis.get_title() for axis in figure.axes if axis.get_visible()] == ["b_S", "b_N"]
    with pytest.raises(SettingError, match="no profiles"):
        figures.profiles({})


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_saved_twice_a_figure_is_the_same_file(noisy_law: Law, tmp_path: Path, ending: str) -> None:
    paths = [tmp_path / f"{i}.{ending}" for i in range(2)]
    for path in paths:
        figures.save(figures.gain_curve(noisy_law), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 1000
