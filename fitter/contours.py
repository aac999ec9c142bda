"""Iso-sparsity contours in the (N, C) plane (paper, figure 3): where each sparsity is the optimal one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitter.accounting import Accounting, cost_multiplier
from fitter.errors import SettingError
from fitter.intervals import bounds
from fitter.optimum import accounting_name

if TYPE_CHECKING:
    from fitter.law import Law

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contours:
    """Training compute at which each sparsity is optimal.

    Args:
        sparsities: [k].
        nonzero_params: [m].
        flops, low, high: [k, m] compute C and its interval. The contour of sparsity 0 is where sparse
            models start to pay.
        data: [k, m] tokens or images on the contour.
        dense_flops, dense_low, dense_high: [m] compute at which N is the best size of a dense model
            (the Chinchilla line).
        accounting: how FLOPs were counted.
        level: probability of the intervals.
    """

    sparsities: Array
    nonzero_params: Array
    flops: Array
    low: Array
    high: Array
    data: Array
    dense_flops: Array
    dense_low: Array
    dense_high: Array
    accounting: str
    level: float


def contours(
    law: Law,
    sparsities: ArrayLike = (0.0, 0.5, 0.75, 0.875),
    nonzero_params: ArrayLike | None = None,
    accounting: Accounting = "dense",
    *,
    level: float | None = None,
) -> Contours:
    """Contours of the law, from the first-order condition dL/dS = 0: exact for every accounting.

    Args:
        sparsities: [k] in [0, 1).
        nonzero_params: [m]; default from a quarter of the smallest fitted N to 16 times the largest.

    Raises:
        SettingError: sparsities out of range, or a law without optimal sparsity.
    """
    level = law.level if level is None else level
    at = np.atleast_1d(np.asarray(sparsities, dtype=float))
    if np.any(~((at >= 0) & (at < 1))):
        raise SettingError("contour sparsities must lie in [0, 1)")
    if nonzero_params is None:
        low, high = law.diagnostics.get("ranges", {}).get("nonzero_params", [1e6, 1e9])
        nonzero_params = np.geomspace(low / 4, high * 16, 49)
    n = np.atleast_1d(np.asarray(nonzero_params, dtype=float))
    flat_s, flat_n = (a.ravel() for a in np.meshgrid(at, n, indexing="ij"))
    data = _data(law, law.raw[None], flat_s, flat_n, accounting)[0]
    per_token = 6.0 * flat_n * cost_multiplier(flat_s, accounting)
    dense = _dense(law, law.raw[None], n)[0] * 6.0 * n
    if law.draws.shape[0]:
        low_c, high_c = bounds(_data(law, law.draws, flat_s, flat_n, accounting) * per_token, level)
        dense_low, dense_high = bounds(_dense(law, law.draws, n) * 6.0 * n, level)
    else:
        low_c = high_c = np.full(flat_n.size, np.nan)
        dense_low = dense_high = np.full(n.size, np.nan)
    shape = (at.size, n.size)
    return Contours(
        sparsities=at,
        nonzero_params=n,
        flops=(data * per_token).reshape(shape),
        low=low_c.reshape(shape),
        high=high_c.reshape(shape),
        data=data.reshape(shape),
        dense_flops=dense,
        dense_low=dense_low,
        dense_high=dense_high,
        accounting=accounting_name(accounting),
        level=level,
    )


def cost_slope(sparsity: Array, accounting: Accounting) -> Array:
    """d ln c_mul / dS, by differences that keep eight digits; one-sided at S = 0, NaN within rounding of 1."""
    step = 1e-5 * (1.0 - sparsity)
    low = np.maximum(sparsity - step, 0.0)
    high = sparsity + step
    rise = np.log(cost_multiplier(high, accounting)) - np.log(cost_multiplier(low, accounting))
    with np.errstate(invalid="ignore"):
        return np.asarray(rise / (high - low))


def _data(law: Law, raw: Array, sparsity: Array, nonzero_params: Array, accounting: Accounting) -> Array:
    found = law.law_form.data_where_optimal(raw, sparsity, nonzero_params, cost_slope(sparsity, accounting))
    if found is None:
        raise SettingError(f"law '{law.form}' does not depend on sparsity, so it has no contours")
    return found


def _dense(law: Law, raw: Array, nonzero_params: Array) -> Array:
    found = law.law_form.chinchilla_data(raw, nonzero_params)
    if found is None:
        raise SettingError(f"law '{law.form}' has no dense-optimal line in closed form")
    return found
