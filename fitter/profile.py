"""Profile intervals: a second opinion on the bootstrap.

A coefficient is held at a value and all others are refitted; the rise of the objective is turned into a
likelihood-ratio statistic. For a Huber objective Q = Σ ρ(r) that is

    T = 2 (Q(θ) − Q(θ̂)) · E[ψ'] / E[ψ²]

(Schrader and Hettmansperger 1980), which is ΔRSS / σ² when δ is wide. E[ψ'] is estimated as the slope of the
mean score under a shift, with a bandwidth, because with a narrow δ hardly any residual lies within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.bootstrap import scatter
from fitter.errors import SettingError
from fitter.forms import Form
from fitter.law import Law
from fitter.problem import Problem, build_problem
from fitter.solver import solve
from fitter.table import Runs, check
from fitter.weighting import run_weights

Array = NDArray[np.float64]

_FIRST_STEP = 0.01
_GROWTH = 1.5
_STEPS = 22


@dataclass(frozen=True)
class Profile:
    """Profile of one coefficient.

    Args:
        name: the coefficient.
        values: [k] ascending, the estimate among them.
        statistic: [k] T at those values; 0 at the estimate.
        threshold: value of T that bounds the interval.
        low, high: the interval; None on a side where the runs set no limit.
        level: its probability.
    """

    name: str
    values: Array
    statistic: Array
    threshold: float
    low: float | None
    high: float | None
    level: float


def profiles(
    law: Law, table: Any, *, names: list[str] | None = None, level: float | None = None
) -> dict[str, Profile]:
    """Profiles of the law's free coefficients over the table that it was fitted to.

    Args:
        names: which coefficients; default all free ones.
        level: probability, default the law's.

    Raises:
        SettingError: a name that is not a free coefficient, or another table than the law's.
    """
    level = law.level if level is None else level
    runs = check(table)
    if runs.digest() != law.data_digest:
        raise SettingError("profiles need the table that the law was fitted to; this one differs")
    settings = law.settings
    pins = {name: float(value) for name, value in settings["pins"].items()}
    problem = problem_of(law.law_form, runs, settings, pins)
    free = [name for name in law.coefficients if name in problem.free]
    wrong = [name for name in names or [] if name not in free]
    if wrong:
        raise SettingError(f"not free in this fit: {', '.join(wrong)}; free are {', '.join(free)}")
    start = problem.free_of(law.raw)
    best = solve(problem, start[None], tolerance=1e-12)
    factor = statistic_factor(problem, best.free[0])
    from scipy.special import stdtrit  # heavy, and only profiles need it

    threshold = float(stdtrit(problem.runs - start.size, 0.5 + 0.5 * level)) ** 2
    base = float(best.objective[0])
    return {name: _profile(name, law, runs, pins, base, factor, threshold, level) for name in (names or free)}


def problem_of(form: Form, runs: Runs, settings: Any, pins: dict[str, float]) -> Problem:
    """The problem of a law's settings, with other pins."""
    return build_problem(
        form,
        runs.points(),
        runs.loss,
        residual=settings["residual"],
        delta=settings["huber_delta"],
        weights=run_weights(runs, settings["weighting"]),
        pins=pins,
        ties=dict(settings["ties"]),
    )


def statistic_factor(problem: Problem, free: Array) -> float:
    """2 E[ψ'] / E[ψ²], with E[ψ²] corrected for the parameters fitted."""
    residual = scatter(problem, free)
    spread = 1.4826 * float(np.median(np.abs(residual)))
    if spread == 0.0:
        return np.inf
    width = max(problem.delta, 1.06 * spread * problem.runs**-0.2)
    weights = problem.weights

    def score(shift: float) -> Array:
        return np.clip(residual + shift, -problem.delta, problem.delta)

    slope = float(np.average((score(width) - score(-width)) / (2.0 * width), weights=weights))
    # `scatter` has already replaced interpolated residuals, which is the small-sample correction
    return 2.0 * slope / float(np.average(score(0.0) ** 2, weights=weights))


def _profile(
    name: str,
    law: Law,
    runs: Runs,
    pins: dict[str, float],
    base: float,
    factor: float,
    threshold: float,
    level: float,
) -> Profile:
    """Walk outwards from the estimate on both sides until the statistic passes the threshold."""
    estimate = float(law.coefficients[name])
    parameter = next(p for p in law.law_form.parameters if p.name == name)
    position = law.law_form.names.index(name)

    def refit(value: float, neighbours: list[Array]) -> tuple[float, Array]:
        """Statistic at a value, and the raw coefficients there; started from each neighbour's."""
        problem = problem_of(law.law_form, runs, law.settings, {**pins, name: value})
        starts = []
        for raw in neighbours:
            moved = raw.copy()
            moved[position] = value
            starts.append(problem.free_of(moved))
        ends = solve(problem, np.nan_to_num(np.stack(starts)), iterations=80, tolerance=1e-8)
        winner = int(ends.objective.argmin())
        return max(0.0, (float(ends.objective[winner]) - base) * factor), problem.raw(ends.free[winner])

    points = [(estimate, 0.0)]
    limits: dict[int, float | None] = {-1: None, 1: None}
    for side in (-1, 1):
        walk: list[tuple[float, float, Array]] = []
        previous = law.raw
        for value in _outwards(estimate, side, parameter.low, parameter.high):
            statistic, previous = refit(value, [previous, law.raw])
            walk.append((value, statistic, previous))
            if statistic > 2.5 * threshold:
                break
        # walking back from the far end finds what the way out has missed
        for index in range(len(walk) - 2, -1, -1):
            value, statistic, _ = walk[index]
            lower, better = refit(value, [walk[index + 1][2]])
            if lower < statistic:
                walk[index] = (value, lower, better)
        points += [(value, statistic) for value, statistic, _ in walk]
        limits[side] = _limit([(estimate, 0.0), *((v, t) for v, t, _ in walk)], threshold)
    points.sort()
    return Profile(
        name=name,
        values=np.array([value for value, _ in points]),
        statistic=np.array([statistic for _, statistic in points]),
        threshold=threshold,
        low=limits[-1],
        high=limits[1],
        level=level,
    )


def _outwards(estimate: float, side: int, low: float, high: float) -> list[float]:
    """Values to visit on one side: growing factors, up to three decades away and within the bounds."""
    steps = np.cumsum(_FIRST_STEP * _GROWTH ** np.arange(_STEPS))
    steps = steps[steps < np.log(1000.0)]
    values = estimate * np.exp(side * steps)
    return [float(value) for value in values if low < value < high and value != estimate]


def _limit(walk: list[tuple[float, float]], threshold: float) -> float | None:
    """Where the statistic passes the threshold for the last time; None if it ends below."""
    if walk[-1][1] <= threshold:
        return None
    for before, after in zip(walk[-2::-1], walk[:0:-1], strict=True):
        if before[1] <= threshold:
            return _crossing(before, after, threshold)
    return None


def _crossing(before: tuple[float, float], after: tuple[float, float], threshold: float) -> float:
    """Where the square root of the statistic, nearly linear in the log of the value, meets the threshold."""
    (first, low), (second, high) = before, after
    share = (np.sqrt(threshold) - np.sqrt(low)) / (np.sqrt(high) - np.sqrt(low))
    return float(first * (second / first) ** share)
