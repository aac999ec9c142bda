"""The fit: a table in, a law out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter import __version__, trust
from fitter.accounting import PAPER_SCHEDULE, GradualPruning
from fitter.bootstrap import Held, Method, bootstrap, scatter
from fitter.errors import NotIdentifiedError, SettingError, TableError
from fitter.forms import Form, get_form
from fitter.groups import PRUNING, grouped
from fitter.identifiability import gate
from fitter.intervals import Interval, bounds, coefficient_intervals
from fitter.law import Law
from fitter.objective import Residual
from fitter.problem import Problem, build_problem
from fitter.search import search
from fitter.table import Runs, check
from fitter.weighting import Weighting, run_weights

Array = NDArray[np.float64]

DEFINITIONS = {
    "nonzero_params": "number of non-zero weights in the linear layers at the end of training; "
    "embeddings, output head and norms not counted",
    "data": "input positions (tokens) or images seen in training, repeats included",
    "loss": "mean validation loss on held-out batches, the same batches for all runs",
    "sparsity": "fraction of pruned weights that are zero at the end of training",
}

#: Gains beyond this are reported as unbounded (None).
LARGEST_GAIN = 1e6

#: Sparsities at which every law reports its gain.
GAIN_SPARSITIES = (0.5, 0.75, 0.875)

# The whole fit is repeatable: resampling starts from this seed unless another is asked for.
_BOOTSTRAP_SEED = 2309_08520


def fit(
    table: Any,
    *,
    form: str = "sparsity",
    residual: Residual = "log",
    huber_delta: float = 1e-3,
    level: float = 0.9,
    intervals: bool = True,
    draws: int = 500,
    bootstrap_method: Method = "both",
    seed: int = _BOOTSTRAP_SEED,
    weighting: Weighting = "equal",
    pins: Mapping[str, float] | None = None,
    ties: Mapping[str, str] | None = None,
    base: Law | Mapping[str, float] | None = None,
    schedule: GradualPruning = PAPER_SCHEDULE,
    report: bool = True,
    require_identified: bool = True,
    definitions: Mapping[str, str] | None = None,
) -> Law:
    """Fit a scaling law to a runs table.

    Args:
        table: DataFrame, mapping of arrays or list of records with the columns sparsity, nonzero_params,
            data, loss and optionally family, pattern, method, seed, steps, unique_data.
        form: name of the law form (`fitter.forms.REGISTRY`).
        residual: "log" (log L̂ − log L) or "raw" (L̂ − L).
        huber_delta: Huber threshold, in units of the residual. Paper: 1e-3 on logs (T5), 1e-2 raw (ViT).
        level: probability of all intervals.
        intervals: whether to bootstrap; without, the law has no intervals.
        draws: bootstrap refits.
        bootstrap_method: "both", "wild" or "pairs" (`fitter.bootstrap`).
        seed: of the resampling.
        weighting: "equal", or "seed-variance" where cells were run with several seeds.
        pins: raw coefficients to hold at a value.
        ties: raw coefficients to hold equal to another.
        base: a law (or its coefficients) whose b_N, a_D, b_D, c are kept; for form "sparsity-transfer".
        schedule: pruning schedule, for forms that average over training.
        report: whether to add the sensitivity part of the trust report.
        require_identified: refuse tables that leave the form unidentified. Roll-outs turn this off: what they
            leave may not identify each coefficient, and may still predict.
        definitions: what N, D and loss mean in this table, where it differs from the default.

    Raises:
        TableError: the table is bad; every problem is listed.
        NotIdentifiedError: the table is too narrow for the form; says which runs would help.
        SettingError: an argument is out of range.
    """
    runs = check(table)
    law_form = get_form(form, schedule)
    pins, ties = _with_base(law_form, dict(pins or {}), base), dict(ties or {})
    if not 0.0 < level < 1.0:
        raise SettingError(f"level must lie between 0 and 1, such as 0.9; got {level!r}")
    problem = build_problem(
        law_form,
        runs.points(),
        runs.loss,
        residual=residual,
        delta=huber_delta,
        weights=run_weights(runs, weighting),
        pins=pins,
        ties=ties,
    )
    verdict = gate(runs, form, pins=pins, ties=ties)
    if not verdict.identified and (require_identified or verdict.cells <= verdict.parameters):
        raise NotIdentifiedError(form, verdict.missing)
    found = search(problem)
    best = found.basins[0]
    diagnostics: dict[str, Any] = trust.core(problem, runs, found)
    diagnostics["identifiability"] = verdict.document()
    diagnostics["mixed"] = _mixed(runs)
    diagnostics["ranges"] = {
        axis: [float(getattr(runs, axis).min()), float(getattr(runs, axis).max())]
        for axis in ("sparsity", "nonzero_params", "data")
    }
    if report:
        diagnostics["sensitivity"] = trust.sensitivity(problem, runs, found, pins, ties)
    raw_draws = np.empty((0, len(law_form.names)))
    if intervals and isinstance(base, Law) and base.draws.shape[0]:
        resampled = _with_base_draws(
            problem, best.free, runs, base, count=draws, seed=seed, method=bootstrap_method
        )
        raw_draws = _finite(_rounded(resampled))
        diagnostics["bootstrap"] = {"draws": int(raw_draws.shape[0]), "base_draws": int(base.draws.shape[0])}
    elif intervals:
        rivals = np.stack([b.free for b in found.basins[1:2]]) if len(found.basins) > 1 else None
        result = bootstrap(
            problem, best.free, runs.cells(), count=draws, seed=seed, method=bootstrap_method, rivals=rivals
        )
        raw_draws = _finite(_rounded(problem.raw(result.free)))
        diagnostics["bootstrap"] = {
            "draws": int(raw_draws.shape[0]),
            "switched_basin": result.switched,
            "unconverged": result.unconverged,
        }
    raw = problem.raw(best.free)
    return Law(
        form=form,
        coefficients=dict(zip(law_form.names, raw.tolist(), strict=True)),
        objective=best.objective / float(problem.weights.sum()),
        runs=len(runs),
        intervals=_intervals(problem, raw_draws, pins, ties, level),
        diagnostics=diagnostics,
        gain=_gains(law_form, raw, raw_draws, level),
        data_digest=runs.digest(),
        settings={
            "form": form,
            "residual": residual,
            "huber_delta": float(huber_delta),
            "level": float(level),
            "bootstrap": {"method": bootstrap_method, "draws": draws, "seed": seed} if intervals else None,
            "weighting": weighting,
            "pins": pins,
            "ties": ties,
            "schedule": {"start": schedule.start, "end": schedule.end, "power": schedule.power},
        },
        definitions={
            **DEFINITIONS,
            **(definitions or {}),
            "formula": law_form.formula,
            "source": law_form.source,
            "units": {parameter.name: parameter.unit for parameter in law_form.parameters},
            "meanings": {parameter.name: parameter.meaning for parameter in law_form.parameters},
        },
        software={"lacuna": __version__, "numpy": np.__version__},
        draws=raw_draws,
        noise=_noise(problem, best.free) if intervals else np.empty(0),
    )


def fit_groups(table: Any, by: Sequence[str], **settings: Any) -> dict[tuple[str, ...], Law]:
    """One law for each value of the label columns `by`, such as ["pattern"] or ["method", "family"].

    Dense runs belong to every group of their family; several n:m patterns of one m make one group (`fitter.groups`).

    Args:
        table: as for `fit`, with the columns named in `by`.
        settings: as for `fit`.

    Returns:
        laws by tuple of labels, in sorted order.

    Raises:
        TableError: a column of `by` is missing, or one group's runs cannot be fitted (the group is named).
    """
    runs = check(table)
    gone = [name for name in by if name not in runs.labels]
    if gone or not by:
        raise TableError(
            [f"column '{name}' to group by is missing" for name in gone] or ["no column to group by"]
        )
    labels = {name: runs.labels[name].astype(str).tolist() for name in by}
    rows = [
        {"sparsity": sparsity, **{name: column[place] for name, column in labels.items()}}
        for place, sparsity in enumerate(runs.sparsity)
    ]
    laws: dict[tuple[str, ...], Law] = {}
    problems: list[str] = []
    for key, places in sorted(grouped(rows, by).items()):
        try:
            laws[key] = fit(runs.take(np.array(places)), **settings)
        except NotIdentifiedError as error:
            named = ", ".join(f"{name} {value}" for name, value in zip(by, key, strict=True))
            problems += [f"group {named}: {sentence}" for sentence in error.missing]
    if problems:
        raise TableError(problems)
    return laws


def _with_base(
    form: Form, pins: dict[str, float], base: Law | Mapping[str, float] | None
) -> dict[str, float]:
    """Pins, those that the form inherits from a base law included."""
    if not form.inherits:
        if base is not None:
            raise SettingError(f"law '{form.name}' takes no base law")
        return pins
    if base is None:
        raise SettingError(
            f"law '{form.name}' keeps {', '.join(form.inherits)} of a base law: pass base=, a law or its coefficients"
        )
    known = base.coefficients if isinstance(base, Law) else base
    gone = [name for name in form.inherits if name not in known]
    if gone:
        raise SettingError(f"the base law lacks {', '.join(gone)}")
    return {**{name: float(known[name]) for name in form.inherits}, **pins}


def _with_base_draws(
    problem: Problem, free: Array, runs: Runs, base: Law, *, count: int, seed: int, method: Method
) -> Array:
    """Raw draws [B, p] of a transfer: each replicate keeps the coefficients of one draw of the base law.

    The uncertainty of what is kept is part of the uncertainty of what follows from it.
    """
    form = problem.form
    whole = build_problem(
        form,
        runs.points(),
        runs.loss,
        residual=problem.residual,
        delta=problem.delta,
        weights=problem.weights,
    )
    fitted = problem.raw(free)
    rows = np.tile(fitted, (count, 1))
    turn = np.arange(count) % base.draws.shape[0]
    for name in form.inherits:
        rows[:, form.names.index(name)] = base.draws[turn, list(base.coefficients).index(name)]
    mask = np.array([name in form.inherits for name in whole.free])
    result = bootstrap(
        whole,
        whole.free_of(fitted),
        runs.cells(),
        count=count,
        seed=seed,
        method=method,
        held=Held(mask, whole.free_of(rows)),
    )
    return whole.raw(result.free)


def _mixed(runs: Runs) -> dict[str, list[str]]:
    """Label columns with several values: runs that one set of coefficients may not describe."""
    found = {
        # A dense run is the same whatever the others are pruned by and to.
        name: sorted(set(column[(runs.sparsity > 0) | (name not in PRUNING)].astype(str).tolist()))
        for name, column in runs.labels.items()
        if name != "seed"
    }
    return {name: values for name, values in found.items() if len(values) > 1}


def _rounded(values: Array) -> Array:
    """Eight significant digits: far below what draws mean, and a third of the JSON."""
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 7 - np.floor(np.log10(np.abs(values)))
    factor = 10.0 ** np.clip(np.where(np.isfinite(digits), digits, 0.0), -290, 290)
    return np.asarray(np.round(values * factor) / factor)


def _finite(values: Array) -> Array:
    """Draws without those that overflow raw units (a_D at an exponent near zero)."""
    return np.asarray(values[np.isfinite(values).all(axis=1)])


def _intervals(
    problem: Problem, draws: Array, pins: Mapping[str, float], ties: Mapping[str, str], level: float
) -> dict[str, Interval]:
    if draws.shape[0] == 0:
        return {}
    parameters = problem.form.parameters
    out = coefficient_intervals(
        [parameter.name for parameter in parameters],
        draws,
        [(parameter.low, parameter.high) for parameter in parameters],
        [[name for name in family if name not in pins] for family in problem.form.families],
        level,
    )
    for name, value in pins.items():
        out[name] = {"low": float(value), "high": float(value), "level": level, "identified": True}
    return out


def _gains(form: Form, raw: Array, draws: Array, level: float) -> dict[str, dict[str, float | None]]:
    at = np.array(GAIN_SPARSITIES)
    value = form.gain(raw, at)
    if value is None:
        return {}
    drawn = form.gain(draws, at) if draws.shape[0] else None
    low, high = (np.full(at.shape, np.nan),) * 2 if drawn is None else bounds(drawn, level)
    return {
        f"{s:g}": {"value": _stated(v), "low": _stated(a), "high": _stated(b)}
        for s, v, a, b in zip(at, value, low, high, strict=True)
    }


def _stated(gain: float) -> float | None:
    """A gain as it is reported: None where it is undefined, or so large that the runs say nothing about it."""
    # With b_N near zero a model of equal loss may be any number of times larger; JSON has no infinity besides.
    return float(gain) if gain < LARGEST_GAIN else None


def _noise(problem: Problem, free: Array) -> Array:
    """Quantiles of one run's scatter about the law, small-sample corrected, for intervals of new runs."""
    sizes = scatter(problem, free)
    return _rounded(np.quantile(sizes, (np.arange(41) + 0.5) / 41))
