"""The trust report: why the answer of a fit may be believed, and where not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.objective import Residual
from fitter.problem import Problem, build_problem
from fitter.search import Basin, Search
from fitter.solver import residuals_and_jacobian, solve
from fitter.table import Runs

Array = NDArray[np.float64]

# Scores are residuals over 1.4826 times their median size (a standard deviation, were they normal).
_OUTLIER_SCORE = 3.5
# Residuals are listed in full up to this many runs; beyond it a plot needs no more.
_LISTED = 2000


def coefficients(problem: Problem, free: Array) -> dict[str, float | None]:
    """Raw coefficients of free parameters [q], by name; None where raw units overflow (a_D as b_D nears zero)."""
    with np.errstate(over="ignore"):
        raw = problem.raw(free).tolist()
    return {name: plain(value) for name, value in zip(problem.form.names, raw, strict=True)}


def plain(value: float) -> float | None:
    """A number that JSON can hold, or None."""
    return float(value) if np.isfinite(value) else None


def core(problem: Problem, runs: Runs, search: Search) -> dict[str, Any]:
    """What every fit reports: convergence, basins, conditioning, bounds, residuals, outliers."""
    best = search.basins[0]
    residual, jacobian = (
        a[0] for a in residuals_and_jacobian(problem, best.free[None], problem.targets[None])
    )
    weight = np.minimum(1.0, problem.delta / np.maximum(np.abs(residual), 1e-300))
    at_bound = [
        name
        for name, value, low, high in zip(problem.free, best.free, problem.low, problem.high, strict=True)
        if value <= low or value >= high
    ]
    return {
        "converged": bool(search.solution.converged[0]),
        "gradient_norm": float(search.solution.gradient[0]),
        "basins": _basins(problem, search),
        "condition": _conditions(problem, best.free, jacobian),
        "at_bound": at_bound,
        "rms_residual": float(np.sqrt(np.average(residual**2, weights=problem.weights))),
        "residuals": _listing(problem, runs, residual, weight),
        "outliers": _outliers(runs, residual, weight),
    }


def _basins(problem: Problem, search: Search) -> dict[str, Any]:
    best, others = search.basins[0], search.basins[1:]

    def described(basin: Basin) -> dict[str, Any]:
        return {
            "objective": basin.objective / float(problem.weights.sum()),
            "coefficients": coefficients(problem, basin.free),
            "starts": basin.starts,
        }

    return {
        "starts": search.starts,
        "reached_optimum": best.starts,
        "share": best.starts / search.starts,
        "runner_up": described(others[0]) if others else None,
    }


def _conditions(problem: Problem, free: Array, jacobian: Array) -> dict[str, float]:
    """Condition numbers of the residual Jacobian: raw units, working units, and with the linear block projected out."""
    design = jacobian.T * np.sqrt(problem.weights)[:, None]
    out = {"normalised": _condition(design)}
    linear = problem.linear_count()
    if 0 < linear < free.size:
        basis, _ = np.linalg.qr(design[:, :linear])
        shape = design[:, linear:]
        out["projected"] = _condition(shape - basis @ (basis.T @ shape))
    if problem.identity:
        # d working / d raw by central differences; only the order of magnitude is of interest
        raw = problem.raw(free)
        step = 1e-6 * np.maximum(np.abs(raw), 1e-30)
        moved = raw + np.concatenate([np.diag(step), -np.diag(step)])
        with np.errstate(all="ignore"):
            working = problem.form.to_working(moved, problem.scales)
            slopes = (working[: raw.size] - working[raw.size :]) / (2 * step[:, None])
        if np.isfinite(slopes).all():
            out["raw"] = _condition(design @ slopes.T)
    return out


def _condition(matrix: Array) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    return float(values[0] / max(values[-1], 1e-300))


def _listing(problem: Problem, runs: Runs, residual: Array, weight: Array) -> dict[str, Any]:
    keep = slice(0, _LISTED)
    return {
        "kind": problem.residual,
        "row": runs.rows[keep].tolist(),
        "predicted": (
            np.exp(problem.targets + residual) if problem.residual == "log" else problem.loss + residual
        )[keep].tolist(),
        "residual": residual[keep].tolist(),
        "weight": weight[keep].tolist(),
    }


def _outliers(runs: Runs, residual: Array, weight: Array) -> list[dict[str, Any]]:
    """Runs far from the law, farthest first, with the weight that the objective gives them."""
    scale = 1.4826 * float(np.median(np.abs(residual)))
    score = np.abs(residual) / max(scale, 1e-300)
    # on data without scatter the score compares rounding errors
    far = np.flatnonzero((score > _OUTLIER_SCORE) & (np.abs(residual) > 1e-9))
    return [
        {
            "row": int(runs.rows[i]),
            "sparsity": float(runs.sparsity[i]),
            "nonzero_params": float(runs.nonzero_params[i]),
            "data": float(runs.data[i]),
            "loss": float(runs.loss[i]),
            "residual": float(residual[i]),
            "score": float(score[i]),
            "weight": float(weight[i]),
        }
        for i in far[np.argsort(-score[far])][:50]
    ]


def sensitivity(
    problem: Problem, runs: Runs, search: Search, pins: dict[str, float], ties: dict[str, str]
) -> dict[str, Any]:
    """How the coefficients move with δ, with the kind of residual, and without each level of each axis.

    All refits start from the optimum and from the runner-up basin, and keep the better end.
    """
    starts = np.stack([basin.free for basin in search.basins[:2]])
    return {
        "huber_delta": _by_delta(problem, starts),
        "residual": _by_residual(problem, runs, starts, pins, ties),
        "leave_one_level_out": _by_level(problem, runs, starts),
    }


def _better(problem: Problem, starts: Array, repeats: int, **settings: Any) -> tuple[Array, Array]:
    """Free parameters [repeats, q] and objectives of the better of the ends from each start."""
    count = starts.shape[0]
    stacked = np.repeat(starts, repeats, axis=0)
    repeated = {
        name: np.tile(value, (count,) + (1,) * (value.ndim - 1))
        for name, value in settings.items()
        if value is not None
    }
    solution = solve(problem, stacked, iterations=80, tolerance=1e-8, **repeated)
    ends = solution.free.reshape(count, repeats, -1)
    objective = solution.objective.reshape(count, repeats)
    winner = objective.argmin(axis=0)
    index = np.arange(repeats)
    return ends[winner, index], objective[winner, index]


def _by_delta(problem: Problem, starts: Array) -> list[dict[str, Any]]:
    deltas = problem.delta * np.array([0.1, 0.316227766, 3.16227766, 10.0, 100.0])
    free, objective = _better(problem, starts, deltas.size, delta=deltas)
    total = float(problem.weights.sum())
    return [
        {"huber_delta": float(d), "objective": float(o) / total, "coefficients": coefficients(problem, f)}
        for d, f, o in zip(deltas, free, objective, strict=True)
    ]


def _by_residual(
    problem: Problem, runs: Runs, starts: Array, pins: dict[str, float], ties: dict[str, str]
) -> dict[str, Any]:
    """The fit under the other kind of residual, δ rescaled by the median loss so that it means the same."""
    other: Residual = "raw" if problem.residual == "log" else "log"
    middle = float(np.median(problem.loss))
    delta = problem.delta * middle if other == "raw" else problem.delta / middle
    changed = build_problem(
        problem.form,
        runs.points(),
        problem.loss,
        residual=other,
        delta=delta,
        weights=problem.weights,
        pins=pins,
        ties=ties,
    )
    free, objective = _better(changed, starts, 1)
    return {
        "residual": other,
        "huber_delta": delta,
        "objective": float(objective[0]) / float(problem.weights.sum()),
        "coefficients": coefficients(changed, free[0]),
    }


def _by_level(problem: Problem, runs: Runs, starts: Array) -> list[dict[str, Any]]:
    """Refits without each level of each axis that has more than three, and the error on the runs left out."""
    left_out: list[tuple[str, float, NDArray[np.bool_]]] = []
    for axis in ("sparsity", "nonzero_params", "data"):
        column = getattr(runs, axis)
        values = np.unique(column)
        if 2 < values.size <= 12:
            left_out += [(axis, float(value), column == value) for value in values]
    left_out = [item for item in left_out if (~item[2]).sum() > len(problem.free)]
    if not left_out:
        return []
    weights = np.stack([np.where(gone, 0.0, problem.weights) for _, _, gone in left_out])
    free, _ = _better(problem, starts, len(left_out), weights=weights)
    out = []
    for (axis, value, gone), end in zip(left_out, free, strict=True):
        predicted = problem.form.value(problem.working(end), problem.inputs)
        error = np.log(predicted[gone] / problem.loss[gone])
        out.append(
            {
                "axis": axis,
                "level": value,
                "runs_left": int((~gone).sum()),
                "coefficients": coefficients(problem, end),
                "left_out_log_rmse": float(np.sqrt(np.mean(error**2))),
            }
        )
    return out
