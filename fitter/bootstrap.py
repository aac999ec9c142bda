"""Bootstrap over cells: hundreds of refits, solved together, warm-started and guarded.

Two resamplings, two thirds and one third of the draws when `method` is "both":

* wild: every cell's residuals keep their size and get a random sign. Valid when scatter differs between
  cells; for objectives close to least absolute deviations Rademacher signs are the right ones (Feng, He and
  Hu 2011). A fit with q parameters nearly interpolates q runs; their residuals say nothing of the scatter,
  so the q smallest are replaced by typical ones. That is the small-sample correction: for least
  squares it equals the factor n / (n - q) on the variance.
* pairs: cells are drawn with replacement. Makes no assumption on residuals, and is somewhat wide when
  cells are few.

The wild one alone is a little short on small sweeps, the pairs one a little long (docs/fitting.md has the
coverage table), which is why both are pooled by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fitter.errors import SettingError
from fitter.problem import Problem
from fitter.solver import Solution, evaluate, solve_in_parts

Array = NDArray[np.float64]
Method = Literal["both", "wild", "pairs"]

# Of T5- and ViT-shaped sweeps the wild bootstrap alone covers 84 to 90 % at a nominal 90, pairs 90 to 96 %.
_WILD_SHARE = 2 / 3


@dataclass(frozen=True)
class Draws:
    """Refits of resampled runs.

    Args:
        free: [B, q] free parameters.
        switched: how many replicates had a lower objective in another basin than in the fit's own.
        unconverged: how many stopped at the iteration cap.
    """

    free: Array
    switched: int
    unconverged: int


@dataclass(frozen=True)
class Held:
    """Parameters of a base law: `mask` [q] says which, `values` [B, q] where each replicate holds them."""

    mask: NDArray[np.bool_]
    values: Array


def scatter(problem: Problem, free: Array) -> Array:
    """[n] residuals of the fit, the q that it nearly interpolates replaced by typical sizes."""
    residual = evaluate(problem, free[None], problem.targets[None])[0]
    taken = min(free.size, problem.runs - 1)
    order = np.argsort(np.abs(residual), kind="stable")
    rest = np.abs(residual[order[taken:]])
    size = np.abs(residual)
    size[order[:taken]] = np.quantile(rest, (np.arange(taken) + 0.5) / taken)
    # a residual of exactly zero has no sign; alternate, so that the replacements stay balanced
    sign = np.where(residual == 0, np.where(np.arange(residual.size) % 2, 1.0, -1.0), np.sign(residual))
    return np.asarray(sign * size)


def bootstrap(
    problem: Problem,
    free: Array,
    clusters: NDArray[np.int64],
    *,
    count: int,
    seed: int = 0,
    method: Method = "both",
    rivals: Array | None = None,
    held: Held | None = None,
) -> Draws:
    """Refit `count` resamplings.

    Args:
        free: [q] the fit; every replicate starts there.
        clusters: [n] runs with one number are resampled together (seeds of a cell).
        seed: of the resampling.
        rivals: [k, q] ends of other basins; replicates also start there and keep the better end.
        held: parameters that are not refitted but vary between replicates (draws of a base law).

    Raises:
        SettingError: count or method out of range.
    """
    if count < 1:
        raise SettingError(f"a bootstrap needs at least one draw, got {count}")
    if method not in ("both", "wild", "pairs"):
        raise SettingError(f"bootstrap method must be both, wild or pairs, got {method!r}")
    random = np.random.default_rng(seed)
    groups, member = np.unique(clusters, return_inverse=True)
    wild = count if method == "wild" else 0 if method == "pairs" else round(_WILD_SHARE * count)
    signs = random.choice([-1.0, 1.0], (wild, groups.size))[:, member]
    residual = evaluate(problem, free[None], problem.targets[None])[0]
    fitted = problem.targets + residual
    wild_targets = fitted - np.abs(scatter(problem, free)) * signs
    drawn = random.multinomial(groups.size, np.full(groups.size, 1 / groups.size), count - wild)[:, member]
    targets = np.concatenate([wild_targets, np.broadcast_to(problem.targets, (count - wild, problem.runs))])
    if problem.residual == "raw":
        # a resampled loss must stay positive for the relative weights of later use
        targets = np.maximum(targets, 1e-3 * problem.loss)
    weights = problem.weights * np.concatenate([np.ones((wild, problem.runs)), drawn])

    def refit(start: Array) -> Solution:
        starts, frozen = np.tile(start, (count, 1)), None
        if held is not None:
            starts = np.where(held.mask, held.values, starts)
            frozen = np.broadcast_to(held.mask, starts.shape)
        return solve_in_parts(problem, starts, targets=targets, weights=weights, frozen=frozen)

    own = refit(free)
    best, objective, switched = own.free, own.objective, np.zeros(count, bool)
    for rival in rivals if rivals is not None else []:
        other = refit(rival)
        lower = other.objective < objective * (1 - 1e-6)
        switched |= lower
        best = np.where(lower[:, None], other.free, best)
        objective = np.where(lower, other.objective, objective)
    return Draws(best, int(switched.sum()), int((~own.converged).sum()))
