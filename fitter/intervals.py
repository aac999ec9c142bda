"""From bootstrap draws to intervals, and the verdict on what the runs do not identify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from fitter.errors import SettingError

Array = NDArray[np.float64]

# A positive coefficient whose interval spans more than this factor is known in name only. On simulated sweeps
# of T5's design with 0.5 % scatter, intervals of b_D that happen to be narrower held the truth only half of
# the time: they are narrow because the estimate is off. Those of b_S and b_N span a third of it at most.
_SPAN = 3.0


class Interval(TypedDict, total=False):
    """`low` and `high` at `level`; both None, with `identified` False, where the runs cannot tell."""

    low: float | None
    high: float | None
    level: float
    identified: bool


def bounds(draws: Array, level: float, axis: int = 0) -> tuple[Array, Array]:
    """Equal-tailed percentile interval of draws along `axis`; draws that are NaN are left out.

    Raises:
        SettingError: level not inside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise SettingError(f"level must lie between 0 and 1, such as 0.9; got {level!r}")
    if draws.shape[axis] == 0:
        shape = list(draws.shape)
        del shape[axis]
        return np.full(shape, np.nan), np.full(shape, np.nan)
    tail = 0.5 * (1.0 - level)
    if np.isinf(draws).any():
        # "never" is an answer (a loss that is not reached), but interpolating towards it is not
        low, high = np.nanquantile(draws, [tail, 1.0 - tail], axis=axis, method="nearest")
        return low, high
    if np.isnan(draws).any():
        low, high = np.nanquantile(draws, [tail, 1.0 - tail], axis=axis)
    else:
        low, high = np.quantile(draws, [tail, 1.0 - tail], axis=axis)
    return low, high


def coefficient_intervals(
    names: Sequence[str],
    draws: Array,
    search_bounds: Sequence[tuple[float, float]],
    families: Sequence[Sequence[str]],
    level: float,
) -> dict[str, Interval]:
    """Intervals of all coefficients from draws [B, p].

    Coefficients of one family (an exponent, its scale and the constant beside it) trade off against one
    another, so where one is not identified none of its family is.
    """
    out = {
        name: coefficient_interval(draws[:, index], *search_bounds[index], level)
        for index, name in enumerate(names)
    }
    for family in families:
        if not all(out[name]["identified"] for name in family if name in out):
            out |= {name: _unidentified(level) for name in family if name in out}
    return out


def _unidentified(level: float) -> Interval:
    return {"low": None, "high": None, "level": level, "identified": False}


def coefficient_interval(draws: Array, low_bound: float, high_bound: float, level: float) -> Interval:
    """Interval of one positive coefficient from its draws [B].

    It counts as not identified when its interval touches a bound of the search or spans a factor of more
    than three: the runs then constrain a combination of coefficients, not this one.
    """
    low, high = (float(value) for value in bounds(draws, level))
    at_bound = low <= low_bound * (1 + 1e-6) or high >= high_bound * (1 - 1e-6)
    if not np.isfinite(low) or not np.isfinite(high) or at_bound or high > _SPAN * low:
        return _unidentified(level)
    return {"low": low, "high": high, "level": level, "identified": True}
