"""Figures for papers: vector, colour-blind safe, one style.

Every function returns a matplotlib Figure; `save` writes it as SVG, PDF or PNG without a date, so that the
same law gives the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fitter.accounting import Accounting
from fitter.errors import SettingError
from fitter.law import Law
from fitter.numbers import short
from fitter.profile import Profile
from fitter.rollout import RollOut
from fitter.table import Runs, check

Array = NDArray[np.float64]

# Okabe and Ito (2008): distinguishable with every common colour vision, and in print by lightness.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "lacuna",
    "pdf.fonttype": 42,
    "figure.dpi": 120,
}


@contextmanager
def style() -> Iterator[None]:
    """The one style of all figures."""
    with matplotlib.rc_context(_STYLE):
        yield


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the ending decides the format."""
    ending = Path(path).suffix.lower()
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(ending)
    with style():
        figure.savefig(path, metadata=undated, bbox_inches="tight")


def _new(width: float = 5.2, height: float = 3.7, columns: int = 1) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, axes


def _mark_levels(axis: Axes, values: Array) -> None:
    """Tick a logarithmic axis at the levels of a grid; fall back on the usual ticks where there are many."""
    levels: list[float] = []
    for value in np.unique(values):
        # True counts of one nominal size differ by a percent or two; one tick serves them.
        if not levels or value > 1.1 * levels[-1]:
            levels.append(float(value))
    axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    if len(levels) <= 4:
        axis.set_xticks(levels, [short(level, " ") for level in levels])


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:.4g} %" if sparsity else "dense"


def loss_against_params(law: Law, table: Any) -> Figure:
    """Loss against non-zero parameters, one panel a training length, one colour a sparsity, with the law's curves."""
    runs = check(table)
    lengths = np.unique(runs.data)
    if lengths.size > 4:
        lengths = lengths[np.linspace(0, lengths.size - 1, 4).round().astype(int)]
    sparsities = np.unique(runs.sparsity)
    sizes = np.geomspace(runs.nonzero_params.min() / 1.3, runs.nonzero_params.max() * 1.3, 80)
    with style():
        figure, axes = _new(2.5 * lengths.size + 0.6, 3.2, lengths.size)
        for axis, length in zip(axes, lengths, strict=True):
            for index, sparsity in enumerate(sparsities):
                colour, marker = PALETTE[index % 7], MARKERS[index % 7]
                here = (runs.data == length) & (runs.sparsity == sparsity)
                prediction = law.predict(sparsity, sizes, length, new_run=False)
                axis.plot(sizes, prediction.loss, color=colour)
                axis.fill_between(
                    sizes, prediction.low, prediction.high, color=colour, alpha=0.1, linewidth=0
                )
                axis.plot(
                    runs.nonzero_params[here], runs.loss[here], marker, color=colour, label=_percent(sparsity)
                )
            axis.set(xscale="log", xlabel="non-zero parameters N", title=f"D = {short(length, ' ')}")
            _mark_levels(axis, runs.nonzero_params)
        low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
        for axis in axes:
            axis.set_ylim(low, high)
        axes[0].set_ylabel("loss")
        axes[-1].legend(title="sparsity")
    return figure


def predicted_against_measured(law: Law, table: Any, *, held_out: RollOut | None = None) -> Figure:
    """Predicted against measured loss; runs of a roll-out are marked, with their own interval."""
    runs = check(table)
    with style():
        figure, (axis,) = _new(4.2, 3.9)
        if held_out is not None:
            law, held = held_out.law, set(held_out.runs.rows.tolist())
            inside = runs.take(np.array([row not in held for row in runs.rows]))
        else:
            inside = runs
        _scatter(axis, law, inside, PALETTE[1], "o", "fitted")
        if held_out is not None:
            _scatter(axis, law, held_out.runs, PALETTE[2], "^", f"held out ({_AXIS_NAMES[held_out.axis]})")
        low, high = axis.get_xlim()
        axis.plot([low, high], [low, high], color="#999999", linewidth=0.8, zorder=0)
        axis.set(xlim=(low, high), xlabel="measured loss", ylabel="predicted loss")
        axis.legend()
    return figure


_AXIS_NAMES = {
    "nonzero_params": "largest N",
    "data": "longest D",
    "sparsity": "sparsest S",
    "flops": "most compute",
}


def _scatter(axis: Axes, law: Law, runs: Runs, colour: str, marker: str, label: str) -> None:
    found = law.predict(runs.sparsity, runs.nonzero_params, runs.data, unique_data=runs.unique_data)
    reach = np.nan_to_num(np.stack([found.loss - found.new_run_low, found.new_run_high - found.loss]))
    axis.errorbar(
        runs.loss,
        found.loss,
        np.maximum(reach, 0.0),
        fmt=marker,
        color=colour,
        elinewidth=0.7,
        label=label,
        alpha=0.9,
    )


def sparsity_contours(
    law: Law,
    sparsities: ArrayLike = (0.0, 0.5, 0.75, 0.875),
    *,
    nonzero_params: ArrayLike | None = None,
    accounting: Accounting = "dense",
    table: Any = None,
) -> Figure:
    """Optimal-sparsity contours over (N, C) with their intervals, the dense-optimal line, and the runs if given."""
    found = law.contours(sparsities, nonzero_params, accounting)
    with style():
        figure, (axis,) = _new(5.4, 4.0)
        for index, sparsity in enumerate(found.sparsities):
            colour = PALETTE[1 + index % 6]
            label = f"S_opt = {_percent(sparsity)}" if sparsity else "sparsity starts to pay"
            axis.plot(found.nonzero_params, found.flops[index], color=colour, label=label)
            axis.fill_between(
                found.nonzero_params,
                found.low[index],
                found.high[index],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
            for edge in (found.low[index], found.high[index]):
                axis.plot(found.nonzero_params, edge, ":", color=colour, linewidth=0.8)
        axis.plot(found.nonzero_params, found.dense_flops, "--", color=PALETTE[0], label="dense-optimal")
        if table is not None:
            from fitter.accounting import cost_multiplier

            runs = check(table)
            flops = runs.flops(cost_multiplier(runs.sparsity, accounting))
            axis.plot(runs.nonzero_params, flops, ".", color="#888888", markersize=3, label="runs")
        # intervals that reach to nothing or to infinity must not squeeze the lines
        lines = np.concatenate([found.flops.ravel(), found.dense_flops])
        axis.set(
            xscale="log", yscale="log", xlabel="non-zero parameters N", ylabel="training compute C (FLOPs)"
        )
        axis.set_ylim(np.nanmin(lines) / 10, np.nanmax(lines) * 10)
        axis.set_title(f"{found.accounting} accounting, {found.level:.0%} intervals")
        axis.legend()
    return figure


def gain_curve(law: Law, *, others: Mapping[str, Law] | None = None) -> Figure:
    """Dense-equivalent size multiplier against sparsity with a band; `others` are drawn as lines beside it."""
    at = np.linspace(0.0, 0.96, 97)
    gain = law.gain_at(at)
    with style():
        figure, (axis,) = _new(4.6, 3.4)
        axis.fill_between(at, gain.low, gain.high, color=PALETTE[1], alpha=0.2, linewidth=0)
        axis.plot(at, gain.value, color=PALETTE[1], label=f"fit, {gain.level:.0%} interval")
        for index, (name, other) in enumerate((others or {}).items()):
            axis.plot(at, other.gain_at(at).value, "--", color=PALETTE[2 + index % 5], label=name)
        fitted = law.diagnostics.get("ranges", {}).get("sparsity")
        if fitted and fitted[1] < at[-1]:
            axis.axvspan(fitted[1], at[-1], color="#f2f2f2", zorder=0, label="beyond the runs")
        axis.set(xlabel="sparsity S", ylabel="gain (dense-equivalent N / N)", xlim=(0, at[-1]))
        axis.legend(loc="upper left")
    return figure


def residuals(law: Law, table: Any) -> Figure:
    """Residuals against each axis, outliers ringed; what a law leaves unexplained shows as a trend."""
    runs = check(table)
    found = law.loss(runs.sparsity, runs.nonzero_params, runs.data, unique_data=runs.unique_data)
    log = law.settings.get("residual", "log") == "log"
    left = np.log(found / runs.loss) if log else found - runs.loss
    far = {outlier["row"] for outlier in law.diagnostics.get("outliers", [])}
    ringed = np.array([row in far for row in runs.rows])
    names = {"sparsity": "sparsity S", "nonzero_params": "non-zero parameters N", "data": "data D"}
    sparsities = np.unique(runs.sparsity)
    with style():
        figure, axes = _new(9.4, 2.9, 3)
        for axis, (name, label) in zip(axes, names.items(), strict=True):
            column = getattr(runs, name)
            for index, sparsity in enumerate(sparsities):
                here = runs.sparsity == sparsity
                # runs of one level lie on top of one another; a small offset by sparsity parts them
                shift = (index - (sparsities.size - 1) / 2) / max(sparsities.size, 1)
                at = column[here] if name == "sparsity" else column[here] * 1.25**shift
                colour, marker = PALETTE[index % 7], MARKERS[index % 7]
                axis.plot(at, left[here], marker, color=colour, label=_percent(sparsity))
                if ringed[here].any():
                    axis.plot(
                        at[ringed[here]], left[here][ringed[here]], "o", mfc="none", mec="#D55E00", ms=9
                    )
            axis.axhline(0, color="#999999", linewidth=0.8)
            axis.set(xlabel=label, xscale="linear" if name == "sparsity" else "log")
            if name != "sparsity":
                _mark_levels(axis, column)
        axes[0].set_ylabel("log predicted − log measured" if log else "predicted − measured")
        figure.legend(*axes[0].get_legend_handles_labels(), title="sparsity", loc="outside right center")
    return figure


def profiles(found: Mapping[str, Profile], law: Law | None = None) -> Figure:
    """Profile curves, one panel a coefficient, with the threshold; the bootstrap interval as a bar if given.

    Raises:
        SettingError: no profiles.
    """
    if not found:
        raise SettingError("there are no profiles to draw")
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    with style():
        figure = Figure(figsize=(2.3 * columns, 2.1 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, profile) in zip(axes, found.items(), strict=False):
            axis.plot(profile.values, np.sqrt(profile.statistic), color=PALETTE[1], marker=".", markersize=3)
            axis.axhline(np.sqrt(profile.threshold), color=PALETTE[2], linewidth=0.9)
            interval = law.intervals.get(name) if law is not None else None
            if interval is not None and interval["low"] is not None:
                axis.plot(
                    [interval["low"], interval["high"]], [0, 0], color=PALETTE[3], linewidth=4, alpha=0.6
                )
            wide = profile.values[-1] > 20 * max(profile.values[0], 1e-300)
            axis.set(title=name, ylim=(-0.15, 1.6 * float(np.sqrt(profile.threshold))))
            axis.set_xscale("log" if wide and profile.values[0] > 0 else "linear")
        for axis in axes[len(found) :]:
            axis.set_visible(False)
        for index in range(0, len(found), columns):
            axes[index].set_ylabel("root of statistic")
    return figure
