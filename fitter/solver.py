"""Many Huber fits at once: a batched, bounded Levenberg-Marquardt with exact Jacobians.

With δ of 1e-3 on log residuals most residuals lie in the linear part of ρ, and the problem is close to
least absolute deviations: a plain Newton model (only residuals within δ carry curvature) is exact there but
may be singular, while the majorising model of iteratively reweighted least squares never fails but
creeps. The model used here slides from the second to the first as steps succeed.

All arrays have a leading batch axis [B]: starts of a search, bootstrap replicates, folds of a hold-out and
points of a profile are all solved by this one function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitter.objective import huber
from fitter.problem import Problem

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Solution:
    """Where each of the B fits ended.

    Args:
        free: [B, q] parameters.
        objective: [B] SUM of weighted ρ.
        gradient: [B] largest projected gradient entry, scaled by parameter curvature (dimensionless).
        converged: [B] whether the step or gradient test was met.
        iterations: how many iterations the slowest took.
    """

    free: Array
    objective: Array
    gradient: Array
    converged: Mask
    iterations: int


def evaluate(problem: Problem, free: Array, targets: Array) -> Array:
    """Residuals [B, n] of free parameters [B, q] against targets [B or 1, n]."""
    value = problem.form.value(problem.working(free), problem.inputs)
    if problem.residual == "log":
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(value)
    return np.asarray(value - targets)


def residuals_and_jacobian(problem: Problem, free: Array, targets: Array) -> tuple[Array, Array]:
    """Residuals [B, n] and their Jacobian [B, q, n] with respect to the free parameters."""
    value, jacobian = problem.form.value_and_jacobian(problem.working(free), problem.inputs)
    if problem.residual == "log":
        jacobian /= value[..., None, :]
        value = np.log(value)
    if not problem.identity:
        jacobian = problem.tie.T @ jacobian
    return value - targets, jacobian


# A trial step may overflow a power law; it is then refused, so the warning would only be noise.
@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def solve(
    problem: Problem,
    start: Array,
    *,
    targets: Array | None = None,
    weights: Array | None = None,
    delta: Array | float | None = None,
    frozen: Mask | None = None,
    iterations: int = 200,
    tolerance: float = 1e-10,
) -> Solution:
    """Minimise sum_i w_i ρ(r_i) from each start.

    Args:
        start: [B, q], inside the box (clipped if not).
        targets: [B, n] or [n], default the problem's.
        weights: [B, n] or [n], default the problem's.
        delta: [B] or scalar Huber thresholds, default the problem's.
        frozen: [B, q] parameters to leave at their start.
        iterations: cap on iterations.
        tolerance: stop once no parameter moves by more than this, relative to its size or curvature.
    """
    count, size = start.shape
    n = problem.runs
    free = np.clip(start, problem.low, problem.high)
    goal = np.broadcast_to(problem.targets if targets is None else targets, (count, n))
    weight = np.broadcast_to(problem.weights if weights is None else weights, (count, n))
    threshold = np.broadcast_to(np.asarray(problem.delta if delta is None else delta), (count,))[:, None]
    fixed = np.zeros((count, size), bool) if frozen is None else np.broadcast_to(frozen, (count, size))

    best = free.copy()
    objective = np.empty(count)
    gradient = np.full(count, np.inf)
    converged = np.zeros(count, bool)
    damping = np.full(count, 1e-2)

    live = np.arange(count)
    residual, jacobian = residuals_and_jacobian(problem, free, goal)
    current = (weight * huber(residual, threshold)).sum(axis=1)
    objective[:] = current
    stalled = np.zeros(count, int)
    taken = 0
    while taken < iterations:
        taken += 1
        model = _model(residual, jacobian, weight, threshold, damping)
        blocked = (
            fixed | ((free <= problem.low) & (model.slope > 0)) | ((free >= problem.high) & (model.slope < 0))
        )
        slope, step = _step(model, damping, blocked)
        trial = np.clip(free + step, problem.low, problem.high)
        moved = trial - free
        trial_residual = evaluate(problem, trial, goal)
        trial_value = (weight * huber(trial_residual, threshold)).sum(axis=1)
        trial_value = np.where(np.isfinite(trial_value), trial_value, np.inf)
        better = trial_value < current
        relative = np.abs(moved).max(axis=1, initial=0.0, where=~blocked)
        # expected fall of the objective, against rounding of the objective itself
        promise = -(slope * step).sum(axis=1)
        negligible = (relative <= tolerance) | (promise <= 1e-15 * np.abs(current) + 1e-300)
        free = np.where(better[:, None], trial, free)
        drop = np.where(better, current - trial_value, 0.0)
        current = np.where(better, trial_value, current)
        good = drop > 0.25 * 0.5 * promise
        damping = np.where(better, np.where(good, damping * 0.1, damping), np.maximum(damping, 1e-9) * 8.0)
        stalled = np.where(better & (drop > 1e-13 * current), 0, stalled + 1)
        done = negligible | (stalled >= 12) | (damping > 1e14)
        best[live], objective[live] = free, current
        gradient[live] = np.abs(slope / np.sqrt(model.scale * np.maximum(current, 1e-300)[:, None])).max(
            axis=1
        )
        converged[live] = done
        if done.all():
            break
        if done.any():
            rest = ~done
            live, free, current, damping, stalled = (a[rest] for a in (live, free, current, damping, stalled))
            goal, weight, threshold, fixed = (a[rest] for a in (goal, weight, threshold, fixed))
        residual, jacobian = residuals_and_jacobian(problem, free, goal)
    return Solution(best, objective, gradient, converged, taken)


@dataclass(frozen=True)
class _Model:
    """Quadratic model of the objective at [B] points: gradient [B, q], curvature [B, q, q], its scale [B, q]."""

    slope: Array
    hessian: Array
    scale: Array


def _model(residual: Array, jacobian: Array, weight: Array, threshold: Array, damping: Array) -> _Model:
    """Curvature between Newton's (weight 1 within δ, 0 beyond) and the majorising one (weight δ / |r| beyond)."""
    inner = np.abs(residual) <= threshold
    irls = np.where(inner, 1.0, threshold / np.abs(residual))
    blend = np.minimum(damping, 1.0)[:, None]
    curvature = weight * (inner + blend * (irls - inner))
    return _Model(
        slope=np.matmul(jacobian, (weight * irls * residual)[..., None])[..., 0],
        hessian=np.matmul(jacobian * curvature[:, None, :], jacobian.transpose(0, 2, 1)),
        scale=np.matmul(jacobian * jacobian, (weight * irls)[..., None])[..., 0] + 1e-300,
    )


def _step(model: _Model, damping: Array, blocked: Mask) -> tuple[Array, Array]:
    """Gradient and damped step [B, q], zero for blocked parameters (frozen, or at a bound and pushed out)."""
    diagonal = np.arange(model.slope.shape[1])
    slope = np.where(blocked, 0.0, model.slope)
    hessian = model.hessian
    hessian[:, diagonal, diagonal] += (np.minimum(damping, 1e8)[:, None] * 1e-3 + 1e-13) * model.scale
    keep = ~blocked
    hessian *= keep[:, :, None] & keep[:, None, :]
    hessian[:, diagonal, diagonal] += blocked
    # unit diagonal: the parameters differ in size by orders of magnitude
    root = np.sqrt(hessian[:, diagonal, diagonal])
    scaled = hessian / (root[:, :, None] * root[:, None, :])
    return slope, -np.linalg.solve(scaled, (slope / root)[..., None])[..., 0] / root


# Working memory of one batch stays below some 20 MB, which keeps it in cache and bounded for long tables.
_BATCH_ELEMENTS = 250_000


def solve_in_parts(
    problem: Problem,
    start: Array,
    *,
    targets: Array | None = None,
    weights: Array | None = None,
    frozen: Mask | None = None,
    iterations: int = 60,
    tolerance: float = 1e-6,
) -> Solution:
    """`solve` for a long batch, in parts of bounded memory. `start` is [B, q]; the rest as in `solve`."""
    count = start.shape[0]
    parts = np.array_split(
        np.arange(count), -(-count * problem.runs * start.shape[1] // (4 * _BATCH_ELEMENTS))
    )

    def part_of(array: Array | None, part: NDArray[np.intp]) -> Array | None:
        return array if array is None or array.ndim == 1 else array[part]

    solutions = [
        solve(
            problem,
            start[part],
            targets=part_of(targets, part),
            weights=part_of(weights, part),
            frozen=None if frozen is None else frozen[part],
            iterations=iterations,
            tolerance=tolerance,
        )
        for part in parts
    ]
    return Solution(
        free=np.concatenate([s.free for s in solutions]),
        objective=np.concatenate([s.objective for s in solutions]),
        gradient=np.concatenate([s.gradient for s in solutions]),
        converged=np.concatenate([s.converged for s in solutions]),
        iterations=max(s.iterations for s in solutions),
    )
