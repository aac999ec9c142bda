"""What a sparse training run costs, relative to a dense one with as many non-zero parameters.

A run that ends with density 1 - S passes through denser states on its way. Its FLOPs are
``6 · N · D · c_mul(S)``, where N counts the non-zero parameters at the end and c_mul is the mean over
training of (density at that time) / (final density). Paper, section 3.3 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitter.errors import SettingError

Array = NDArray[np.float64]


@runtime_checkable
class Schedule(Hashable, Protocol):
    """Anything that says how sparse a run is at each point of its training. Must be hashable."""

    def sparsity_at(self, progress: Array, target: Array) -> Array:
        """Sparsity at `progress` in [0, 1] of a run that ends at `target`; the two broadcast."""
        ...


@dataclass(frozen=True)
class GradualPruning:
    """Cubic gradual magnitude pruning (paper, section 2): dense, then cubic, then fixed.

    Args:
        start: fraction of training at which pruning begins.
        end: fraction of training from which on the target sparsity holds.
        power: exponent of the ramp; 3 is the cubic of Zhu and Gupta (2017).
    """

    start: float = 0.25
    end: float = 0.75
    power: float = 3.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise SettingError(f"pruning needs 0 <= start < end <= 1, got start {self.start}, end {self.end}")

    def sparsity_at(self, progress: Array, target: Array) -> Array:
        ramp = np.clip((progress - self.start) / (self.end - self.start), 0.0, 1.0)
        return np.asarray(target * (1.0 - (1.0 - ramp) ** self.power))


#: The paper's schedule: pruning from 25 % to 75 % of training.
PAPER_SCHEDULE = GradualPruning()

#: A cost model: a name, a schedule, or measured cost multipliers as a function of sparsity.
Accounting = str | Schedule | Callable[[Array], Array]

# Schedules are smooth between a few kinks (start, end, mask updates). 400 panels of 8 nodes put every kink
# that is a multiple of 1/400 of training on a panel edge, where the quadrature stays exact.
_PANELS = 400
_DEGREE = 24


def integrated_density(schedule: Schedule, sparsity: Array) -> Array:
    """Mean density over training [m] of runs that end at `sparsity` [m], by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    middle = (np.arange(_PANELS) + 0.5) / _PANELS
    progress = (middle[:, None] + 0.5 * nodes / _PANELS).ravel()
    weight = np.tile(0.5 * weights / _PANELS, _PANELS)
    return np.asarray((1.0 - schedule.sparsity_at(progress, sparsity[:, None])) @ weight)


@lru_cache(maxsize=32)
def _density_series(schedule: Schedule) -> np.polynomial.Chebyshev:
    """Mean density as a function of the final sparsity: a polynomial, of degree one for most schedules."""
    series = np.polynomial.Chebyshev.interpolate(
        lambda sparsity: integrated_density(schedule, sparsity), _DEGREE, domain=[0.0, 1.0]
    )
    return series.trim(tol=1e-12)


def mean_density(schedule: Schedule, sparsity: ArrayLike) -> Array:
    """Mean density over training, integrated from the schedule. `sparsity` [...] in [0, 1).

    Long questions are answered from a Chebyshev series of the integral, exact to 1e-12 for schedules that
    are smooth in their target.
    """
    target = np.asarray(sparsity, dtype=float)
    if target.size <= _DEGREE:
        return integrated_density(schedule, target.ravel()).reshape(target.shape)
    return np.asarray(_density_series(schedule)(target))


def cost_multiplier(sparsity: ArrayLike, accounting: Accounting = "dense") -> Array:
    """c_mul(S): training FLOPs relative to a dense model with N non-zero parameters.

    Args:
        sparsity: [...] in [0, 1).
        accounting: "dense" (masked weights cost as much as others: 1 / (1 - S)), "sparse" (only non-zero
            weights cost, the paper's schedule), a `Schedule` (only non-zero weights cost, that schedule),
            or a callable S -> multiplier (`measured` below).

    Raises:
        SettingError: unknown name, or "measured" without measurements.
    """
    target = np.asarray(sparsity, dtype=float)
    if isinstance(accounting, str):
        if accounting == "dense":
            return np.asarray(1.0 / (1.0 - target))
        if accounting == "sparse":
            return mean_density(PAPER_SCHEDULE, target) / (1.0 - target)
        if accounting == "measured":
            raise SettingError(
                "accounting 'measured' needs measurements: pass fitter.accounting.measured(...)"
            )
        raise SettingError(
            f"accounting '{accounting}' is unknown; use dense, sparse, measured(...) or a schedule"
        )
    if isinstance(accounting, Schedule):
        return mean_density(accounting, target) / (1.0 - target)
    return np.asarray(accounting(target), dtype=float)


@dataclass(frozen=True)
class Measured:
    """Cost multipliers from measured throughput: lines between the points in log cost over log(1 - S), and beyond the
    sparsest point the last line goes on, though never down, since no sparsity is free because nobody measured it.

    Args:
        sparsity: [k] sparsities at which throughput was measured, ascending, the first 0.
        multiplier: [k] seconds per token at that sparsity over seconds per token of a DENSE model with the
            same number of non-zero parameters.
    """

    sparsity: tuple[float, ...]
    multiplier: tuple[float, ...]

    def __call__(self, sparsity: Array) -> Array:
        at = -np.log1p(-np.asarray(sparsity, dtype=float))
        known = -np.log1p(-np.asarray(self.sparsity))
        cost = np.log(self.multiplier)
        slope = max(0.0, (cost[-1] - cost[-2]) / (known[-1] - known[-2]))
        beyond = slope * np.maximum(at - known[-1], 0.0)
        return np.asarray(np.exp(np.interp(at, known, cost) + beyond))


def measured(sparsity: ArrayLike, multiplier: ArrayLike) -> Measured:
    """A cost model from measurements; see `Measured`.

    Raises:
        SettingError: lengths differ, sparsities out of [0, 1) or not ascending, multipliers not positive.
    """
    at, cost = np.asarray(sparsity, dtype=float), np.asarray(multiplier, dtype=float)
    if at.ndim != 1 or at.shape != cost.shape or at.size < 2:
        raise SettingError("measured accounting needs two or more (sparsity, multiplier) pairs")
    if np.any(at < 0) or np.any(at >= 1) or np.any(np.diff(at) <= 0):
        raise SettingError("measured sparsities must ascend within [0, 1)")
    if np.any(~np.isfinite(cost)) or np.any(cost <= 0):
        raise SettingError("measured multipliers must be positive")
    return Measured(tuple(at.tolist()), tuple(cost.tolist()))
