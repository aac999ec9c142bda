"""Which runs next? Those that most reduce the variance of what is asked, per FLOP.

The information of a set of runs is M = Σ J Jᵀ / σ² + prior, with J the gradient of a run's residual in the
working parameters. A further run updates M by one rank, so its effect on the variance of any target is
known exactly before it is run; the choice is greedy, one run at a time, over the whole candidate grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fitter.accounting import Accounting, cost_multiplier
from fitter.errors import SettingError
from fitter.fitting import fit
from fitter.forms import Form, Points, get_form
from fitter.law import Law
from fitter.optimum import optimal_sparsity
from fitter.problem import Problem, build_problem
from fitter.solver import residuals_and_jacobian
from fitter.table import Runs, check

Array = NDArray[np.float64]
Target = Literal["law", "worst", "optimum"]

# Scatter of log loss between runs where there is no fit yet to learn it from.
_USUAL_SCATTER = 0.007
# The prior is one relative standard deviation of this size on every working parameter: wide, and enough to
# rank runs while the table alone leaves directions open.
_PRIOR_DEVIATION = 1.0


@dataclass(frozen=True)
class Suggestion:
    """One run to do next.

    Args:
        sparsity, nonzero_params, data: the run.
        flops: what it costs.
        deviation: standard deviation of the target once it and all before it are done.
        reduction: relative fall of the target's variance by this run.
    """

    sparsity: float
    nonzero_params: float
    data: float
    flops: float
    deviation: float
    reduction: float


@dataclass(frozen=True)
class Plan:
    """Suggested runs in the order of choice.

    Args:
        runs: the suggestions.
        target: "law" (log loss over the candidate and known cells, root mean variance), "worst" (the largest
            of those) or "optimum" (S_opt at the question).
        deviation: standard deviation of the target now.
        flops: cost of all suggestions.
    """

    runs: tuple[Suggestion, ...]
    target: Target
    deviation: float
    flops: float

    def document(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "target": self.target,
            "deviation": self.deviation,
            "flops": self.flops,
            "runs": [vars(run) for run in self.runs],
        }


def suggest(
    table: Any,
    *,
    flops: float,
    target: Target = "law",
    nonzero_params: float | None = None,
    budget: float | None = None,
    candidates: Any = None,
    law: Law | None = None,
    form: str = "sparsity",
    accounting: Accounting = "dense",
    limit: int = 16,
    **settings: Any,
) -> Plan:
    """The next runs, chosen greedily by variance reduction per FLOP until `flops` is spent.

    Args:
        table: runs done so far, as for `fit`.
        flops: how much may be spent on new runs.
        target: "law": predicted log loss, mean variance over all cells; "worst": the least known cell, for
            when every cell must be predicted well; "optimum": S_opt at (nonzero_params, budget).
        nonzero_params, budget: the model size and training FLOPs at which S_opt is wanted.
        candidates: mapping or DataFrame with sparsity, nonzero_params, data; default `candidate_grid`.
        law: the fit of the table, where it exists already.
        form, settings: for the fit otherwise.
        accounting: how runs are priced.
        limit: at most so many runs.

    Raises:
        SettingError: no budget, or target "optimum" without its question.
        NotIdentifiedError: the table is too narrow for a fit; its message names the runs to do first.
    """
    if not flops > 0:
        raise SettingError(f"flops must be positive, got {flops!r}")
    if target not in ("law", "worst", "optimum"):
        raise SettingError(f"target must be 'law', 'worst' or 'optimum', got {target!r}")
    if target == "optimum" and (nonzero_params is None or budget is None):
        raise SettingError(
            "target 'optimum' needs nonzero_params= and budget=, the model and FLOPs in question"
        )
    runs = check(table)
    law = law or fit(runs, form=form, intervals=False, report=False, **settings)
    options = candidate_grid(runs) if candidates is None else points_of(candidates)
    design = Design(law, runs, options, accounting)
    if nonzero_params is None or budget is None or target != "optimum":
        directions = design.cells
    else:
        directions = design.optimum_direction(nonzero_params, budget, accounting)
    return design.choose(directions, target=target, flops=flops, limit=limit)


def points_of(table: Any) -> Points:
    """Candidate points of a mapping or DataFrame with sparsity, nonzero_params and data."""
    s, n, d = (
        np.asarray(table[name], dtype=float).ravel() for name in ("sparsity", "nonzero_params", "data")
    )
    return Points(s, n, d, d)


def candidate_grid(runs: Runs) -> Points:
    """Cells of the table's grid that are not done, and one more level beyond the far end of each axis."""
    axes_done = [_levels(getattr(runs, axis)) for axis in ("sparsity", "nonzero_params", "data")]
    levels = [np.unique(values) for values in axes_done]
    density = 1.0 - levels[0]
    step = density[-2] / density[-1] if density.size > 1 else 2.0
    axes = [
        np.append(levels[0], 1.0 - density[-1] / step),
        *(np.append(v, v[-1] * (v[-1] / v[-2] if v.size > 1 else 2.0)) for v in levels[1:]),
    ]
    s, n, d = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    done = {_key(*cell) for cell in zip(*axes_done, strict=True)}
    new = np.array([_key(*cell) not in done for cell in zip(s, n, d, strict=True)])
    return Points(s[new], n[new], d[new], d[new])


#: Relative difference below which two sizes are one level: shapes are rounded, so that 4.00 k at one sparsity is
#: 4.03 k at another.
_SAME_LEVEL = 0.05


def _levels(values: Array) -> Array:
    """The values with those of one level made equal: each becomes the commonest of its level."""
    distinct, counts = np.unique(values, return_counts=True)
    # A sparsity of 0 stands alone; a new level begins where the step from its first member is too large.
    levels: list[list[int]] = []
    for place, value in enumerate(distinct):
        if levels and value - distinct[levels[-1][0]] <= _SAME_LEVEL * distinct[levels[-1][0]]:
            levels[-1].append(place)
        else:
            levels.append([place])
    usual = np.empty_like(distinct)
    for members in levels:
        usual[members] = distinct[max(members, key=lambda place: counts[place])]
    return np.asarray(usual[np.searchsorted(distinct, values)])


def _key(sparsity: float, nonzero_params: float, data: float) -> tuple[str, str, str]:
    return (f"{sparsity:.9g}", f"{nonzero_params:.9g}", f"{data:.9g}")


class Design:
    """Information of the runs done, and what each candidate would add."""

    def __init__(
        self,
        law: Law,
        runs: Runs,
        candidates: Points,
        accounting: Accounting = "dense",
        cost: Array | None = None,
    ) -> None:
        """`cost`: [candidates] FLOPs of each, where they are known better than by `accounting`."""
        self.candidates = candidates
        self.cost = (
            cost
            if cost is not None
            else 6.0
            * candidates.nonzero_params
            * candidates.data
            * cost_multiplier(candidates.sparsity, accounting)
        )
        self.form: Form = law.law_form
        everything = Points(
            *(
                np.concatenate([getattr(runs.points(), name), getattr(candidates, name)])
                for name in ("sparsity", "nonzero_params", "data", "unique_data")
            )
        )
        loss = self.form.evaluate(law.raw, everything)
        self.problem: Problem = build_problem(
            self.form,
            everything,
            loss,
            residual=law.settings.get("residual", "log"),
            pins=law.settings.get("pins"),
            ties=law.settings.get("ties"),
        )
        # Residuals are of log loss; raw ones are made relative where deviations are told.
        self._unit = 1.0 if law.settings.get("residual", "log") == "log" else float(np.mean(loss))
        self.free = self.problem.free_of(law.raw)
        _, jacobian = residuals_and_jacobian(self.problem, self.free[None], self.problem.targets[None])
        gradients = jacobian[0].T
        self.known, self.new = gradients[: len(runs)], gradients[len(runs) :]
        rms = float(law.diagnostics.get("rms_residual", _USUAL_SCATTER))
        spare = max(1.0 - self.free.size / max(len(runs), 1), 0.2)
        self.variance = max(rms**2 / spare, 1e-12)
        size = np.maximum(np.abs(self.free), 0.05 * np.abs(self.free).max())
        self.information = self.known.T @ self.known / self.variance + np.diag(
            (_PRIOR_DEVIATION * size) ** -2.0
        )

    @property
    def cells(self) -> Array:
        """[k, q] gradients of log loss at all cells, known and new: the directions of targets law and worst."""
        return np.concatenate([self.known, self.new])

    def optimum_direction(self, nonzero_params: float, flops: float, accounting: Accounting) -> Array:
        """[1, q] gradient of S_opt, by central differences."""
        n, c = np.array([nonzero_params], dtype=float), np.array([flops], dtype=float)
        step = 1e-4 * np.maximum(np.abs(self.free), 1e-3)
        moved = np.concatenate([self.free + np.diag(step), self.free - np.diag(step)])
        values = optimal_sparsity(self.form, self.problem.raw(moved), n, c, accounting)[:, 0]
        gradient = (values[: step.size] - values[step.size :]) / (2.0 * step)
        if not np.any(gradient):
            raise SettingError(
                "S_opt is 0 there (a dense model is best) whatever runs are added; ask for more FLOPs"
            )
        return np.asarray(gradient[None])

    def _after(
        self, which: NDArray[np.intp], directions: Array, inverse: Array, summary: Callable[..., Any]
    ) -> tuple[Array, Array, Array]:
        """What one more run does, for each candidate of `which`: M⁻¹J, σ² + Jᵀ M⁻¹ J, and the target's variance then.

        M⁻¹ falls by (M⁻¹ J)(M⁻¹ J)ᵀ / (σ² + Jᵀ M⁻¹ J).
        """
        reach = self.new[which] @ inverse
        price = self.variance + np.einsum("cq,cq->c", reach, self.new[which])
        after = _variances(directions, inverse) - (reach @ directions.T) ** 2 / price[:, None]
        return reach, price, np.asarray(summary(after, axis=1))

    def deviation(self, directions: Array) -> float:
        """Relative standard deviation of the loss over `directions` (root mean variance), by the runs done."""
        return float(np.sqrt(np.mean(_variances(directions, np.linalg.inv(self.information))))) / self._unit

    def best(self, directions: Array, flops: float) -> int | None:
        """The candidate that most reduces the mean variance of `directions` per FLOP, for at most `flops`; None: none
        is so cheap."""
        affordable = np.flatnonzero(self.cost <= flops)
        if affordable.size == 0:
            return None
        inverse = np.linalg.inv(self.information)
        now = float(np.mean(_variances(directions, inverse)))
        _, _, then = self._after(affordable, directions, inverse, np.mean)
        return int(affordable[((now - then) / np.maximum(self.cost[affordable], 1.0)).argmax()])

    def choose(self, directions: Array, *, target: Target, flops: float, limit: int) -> Plan:
        """Greedy choice by fall of the target's variance per FLOP; each candidate at most once.

        Args:
            directions: [k, q] gradients of the quantities in question.
            target: "worst" counts the largest of their variances, the others the mean.
        """
        summary = np.max if target == "worst" else np.mean
        inverse = np.linalg.inv(self.information)
        start = current = float(summary(_variances(directions, inverse)))
        open_ = np.ones(self.cost.size, bool)
        left = float(flops)
        chosen: list[Suggestion] = []
        while len(chosen) < limit:
            affordable = np.flatnonzero(open_ & (self.cost <= left))
            if affordable.size == 0:
                break
            reach, price, then = self._after(affordable, directions, inverse, summary)
            pick = int(((current - then) / self.cost[affordable]).argmax())
            best = int(affordable[pick])
            inverse = inverse - np.outer(reach[pick], reach[pick]) / price[pick]
            before, current = current, float(then[pick])
            open_[best] = False
            left -= float(self.cost[best])
            chosen.append(
                Suggestion(
                    sparsity=float(self.candidates.sparsity[best]),
                    nonzero_params=float(self.candidates.nonzero_params[best]),
                    data=float(self.candidates.data[best]),
                    flops=float(self.cost[best]),
                    deviation=float(np.sqrt(max(current, 0.0))),
                    reduction=float(1.0 - current / before) if before > 0 else 0.0,
                )
            )
        return Plan(tuple(chosen), target, float(np.sqrt(start)), float(flops) - left)


def _variances(directions: Array, inverse: Array) -> Array:
    """[k] variances of quantities with gradients [k, q]."""
    return np.asarray(np.einsum("kq,qr,kr->k", directions, inverse, directions))


def first_runs(
    candidates: Any,
    *,
    count: int,
    target: Target = "law",
    law: Law | None = None,
    form: str = "sparsity",
    accounting: Accounting = "dense",
) -> list[int]:
    """Which candidates to run before there is any fit: indices, in order of choice.

    Greedy as `suggest`, with no runs at all and a guess of the law (`rough_guess` unless one is given).
    """
    points = points_of(candidates)
    design = Design(law or rough_guess(points, form), _no_runs(), points, accounting)
    plan = design.choose(design.cells, target=target, flops=np.inf, limit=count)
    keys = [_key(*cell) for cell in zip(points.sparsity, points.nonzero_params, points.data, strict=True)]
    return [keys.index(_key(run.sparsity, run.nonzero_params, run.data)) for run in plan.runs]


def rough_guess(points: Points, form: str = "sparsity") -> Law:
    """A law in which all terms weigh equally at the middle of the candidates, with middling exponents."""
    law_form = get_form(form)
    scales = law_form.scales(points, {}, frozenset())
    exponents = [float(np.exp(np.log(axis).mean())) for axis in law_form.grid()]
    raw = law_form.to_raw(np.array([0.5] * len(law_form.linear) + exponents), scales)
    return Law.known(dict(zip(law_form.names, raw.tolist(), strict=True)), form)


def _no_runs() -> Runs:
    empty = np.empty(0)
    return Runs(empty, empty, empty, empty, empty, rows=np.empty(0, dtype=np.int64))
