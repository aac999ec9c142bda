"""Global search by variable projection: only the exponents are searched, the rest is solved.

For each point of a grid over the shape parameters the non-negative linear block is the answer to a small
least-squares problem; all grid points are solved at once. The grid's local minima are refined on a finer
grid around them, then polished by the exact solver. No random start is involved, so the same table always
gives the same answer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fitter.objective import huber
from fitter.problem import Problem
from fitter.solver import Solution, evaluate, solve

Array = NDArray[np.float64]

# Rows used to rank grid points, and to polish candidates before the final polish on all rows. The grid only
# has to find the basins; the polish on every row decides the answer.
_GRID_ROWS = 256
_POLISH_ROWS = 1024
_STARTS = 12


@dataclass(frozen=True)
class Basin:
    """A place where the polish can end.

    Args:
        free: [q] parameters there.
        objective: sum of weighted ρ over all runs.
        starts: how many of the search's starts ended here.
    """

    free: Array
    objective: float
    starts: int


@dataclass(frozen=True)
class Search:
    """The outcome: basins ordered by objective (the first is the answer), and the last polish."""

    basins: tuple[Basin, ...]
    solution: Solution
    starts: int


def thin(problem: Problem, rows: int) -> Problem:
    """The same problem on at most `rows` runs, spread evenly over the sorted design."""
    if problem.runs <= rows:
        return problem
    order = np.lexsort(problem.inputs)
    pick = np.sort(order[np.linspace(0, problem.runs - 1, rows).round().astype(int)])
    return replace(
        problem, inputs=problem.inputs[:, pick], loss=problem.loss[pick], weights=problem.weights[pick]
    )


def project(problem: Problem, shape: Array, *, reweightings: int = 2) -> tuple[Array, Array]:
    """Best linear block for each shape vector.

    Non-negative weighted least squares (relative residuals where the objective is on logs), reweighted a few
    times towards the Huber objective. Negative coefficients are dropped one at a time, most negative first.

    Args:
        shape: [G, e] free shape parameters.

    Returns:
        free parameters [G, q] and their objective [G].
    """
    count, linear = shape.shape[0], problem.linear_count()
    free = np.concatenate([np.zeros((count, linear)), shape], axis=1)
    working = problem.working(free)
    total = len(problem.form.linear)
    basis = problem.form.basis(working[:, total:], problem.inputs)
    fixed = (problem.offset[:total, None] * basis).sum(axis=1) if not problem.identity else 0.0
    design = basis if problem.identity else problem.tie[:total, :linear].T @ basis
    relative = 1.0 / problem.loss if problem.residual == "log" else np.ones(problem.runs)
    base = problem.weights * relative**2
    goal = problem.loss - fixed
    weight = np.broadcast_to(base, (count, problem.runs))
    for _ in range(1 + reweightings):
        coefficients = _nonnegative(design, np.broadcast_to(goal, (count, problem.runs)), weight)
        value = np.matmul(coefficients[:, None, :], design)[:, 0] + fixed
        if problem.residual == "log":
            with np.errstate(divide="ignore"):
                residual = np.where(value > 0, np.log(np.maximum(value, 1e-300)) - problem.targets, 700.0)
        else:
            residual = value - problem.targets
        size = np.abs(residual)
        # smoother than the objective at first, so that reweighting does not lock on to a few runs
        threshold = np.maximum(problem.delta, np.median(size, axis=1, keepdims=True))
        weight = base * np.minimum(1.0, threshold / np.maximum(size, 1e-300))
    free[:, :linear] = coefficients
    objective = (problem.weights * huber(residual, problem.delta)).sum(axis=1)
    return free, objective


def _nonnegative(design: Array, goal: Array, weight: Array) -> Array:
    """Least squares [G, k] with coefficients >= 0, for design [G, k, n], goal and weight [G, n]."""
    if design.shape[1] == 0:
        return np.zeros(design.shape[:2])
    weighted = design * weight[:, None, :]
    gram = np.matmul(weighted, design.transpose(0, 2, 1))
    moment = np.matmul(weighted, goal[..., None])[..., 0]
    size = np.sqrt(np.einsum("gkk->gk", gram)) + 1e-300
    gram = gram / (size[:, :, None] * size[:, None, :])
    moment = moment / size
    index = np.arange(gram.shape[1])
    gram[:, index, index] += 1e-12
    out = np.linalg.solve(gram, moment[..., None])[..., 0]
    keep = np.ones(out.shape, bool)
    for _ in range(out.shape[1] - 1):
        (bad,) = np.nonzero((out < 0).any(axis=1))
        if bad.size == 0:
            break
        keep[bad, np.argmin(np.where(keep[bad], out[bad], np.inf), axis=1)] = False
        held = keep[bad]
        part = gram[bad] * (held[:, :, None] & held[:, None, :])
        part[:, index, index] += ~held
        out[bad] = np.linalg.solve(part, (moment[bad] * held)[..., None])[..., 0]
    return np.asarray(np.maximum(out, 0.0) / size)


def search(problem: Problem, *, starts: int = _STARTS) -> Search:
    """Find the global optimum of the problem.

    Args:
        starts: how many local minima of the grid to polish.

    Returns:
        the basins found, best first.
    """
    axes = _axes(problem)
    ranking = thin(problem, _GRID_ROWS)
    candidates = _grid_minima(ranking, axes, starts)
    polishing = thin(problem, _POLISH_ROWS)
    # a first polish with a wide threshold keeps starts from stopping at kinks of the narrow one
    spread = np.median(np.abs(_residuals(polishing, candidates)), axis=1)
    wide = solve(
        polishing,
        candidates,
        delta=np.maximum(3.0 * spread, problem.delta),
        iterations=15,
        tolerance=1e-4,
    )
    polished = _polish(polishing, wide.free)
    basins = _group(polished)
    if polishing is not problem:
        ends = np.stack([basin.free for basin in basins[:4]])
        final = solve(problem, ends, iterations=100, tolerance=1e-12)
        counts = [basin.starts for basin in basins[:4]]
    else:
        final = solve(problem, basins[0].free[None], iterations=60, tolerance=1e-13)
        counts = [basins[0].starts]
    order = np.argsort(final.objective, kind="stable")
    refined = [Basin(final.free[i], float(final.objective[i]), counts[i]) for i in order]
    rest = [] if polishing is not problem else basins[1:]
    best = Solution(
        final.free[order[:1]],
        final.objective[order[:1]],
        final.gradient[order[:1]],
        final.converged[order[:1]],
        final.iterations,
    )
    return Search((*refined, *rest), best, candidates.shape[0])


def _polish(problem: Problem, starts: Array) -> Solution:
    """Polish all starts; once the best is exact, only those that ended elsewhere go on."""
    first = solve(problem, starts, iterations=25, tolerance=1e-8)
    leader = solve(problem, first.free[first.objective.argmin()][None], iterations=100, tolerance=1e-12)
    free, objective = first.free.copy(), first.objective.copy()
    free[objective.argmin()], objective[objective.argmin()] = leader.free[0], leader.objective[0]
    (apart,) = np.nonzero((objective > _tied(float(leader.objective[0]))) & ~first.converged)
    if apart.size:
        more = solve(problem, free[apart], iterations=120, tolerance=1e-8)
        free[apart], objective[apart] = more.free, more.objective
    return Solution(free, objective, first.gradient, first.converged, first.iterations)


def _tied(objective: float) -> float:
    """Up to which objective another end counts as the same basin: a start may stop a little short of it."""
    return objective * (1 + 1e-3) + 1e-12


def _residuals(problem: Problem, free: Array) -> Array:
    return evaluate(problem, free, problem.targets[None])


def _axes(problem: Problem) -> tuple[Array, ...]:
    """Grid of each free shape parameter."""
    by_name = dict(zip(problem.form.shape, problem.form.grid(), strict=True))
    return tuple(by_name[name] for name in problem.free[problem.linear_count() :])


def _grid_minima(problem: Problem, axes: tuple[Array, ...], starts: int) -> Array:
    """Free parameters [starts or fewer, q] of the grid's best local minima, each refined once."""
    if not axes:
        return project(problem, np.zeros((1, 0)))[0]
    shape = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    _, objective = project(problem, shape, reweightings=2)
    height = objective.reshape([axis.size for axis in axes])
    padded = np.pad(height, 1, constant_values=np.inf)
    core = tuple(slice(1, -1) for _ in axes)
    lowest = np.ones(height.shape, bool)
    for offset in itertools.product((-1, 0, 1), repeat=len(axes)):
        shifted = padded[tuple(slice(1 + o, padded.shape[i] - 1 + o) for i, o in enumerate(offset))]
        lowest &= padded[core] <= shifted
    ranked = np.argsort(objective, kind="stable")
    minima = ranked[lowest.ravel()[ranked]][:starts]
    others = ranked[~np.isin(ranked, minima)]
    # every second start: the best grid points that are no minima themselves, spread over the ranking
    fill = others[np.unique(np.geomspace(1, others.size, max(starts - minima.size, 0) + 1).astype(int) - 1)]
    centres = shape[np.concatenate([minima, fill])[:starts]]
    ratios = np.array([np.sqrt(axis[1] / axis[0]) if axis.size > 1 else 1.0 for axis in axes])
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=len(axes))))
    around = centres[:, None, :] * ratios ** (0.67 * steps[None])
    free, objective = project(problem, around.reshape(-1, len(axes)), reweightings=1)
    best = objective.reshape(centres.shape[0], -1).argmin(axis=1)
    return np.asarray(free.reshape(centres.shape[0], len(steps), -1)[np.arange(centres.shape[0]), best])


def _group(solution: Solution) -> list[Basin]:
    """Collect ends whose objectives agree, best first."""
    basins: list[Basin] = []
    for index in np.argsort(solution.objective, kind="stable"):
        value = float(solution.objective[index])
        if basins and value <= _tied(basins[-1].objective):
            basins[-1] = replace(basins[-1], starts=basins[-1].starts + 1)
        else:
            basins.append(Basin(solution.free[index], value, 1))
    return basins
