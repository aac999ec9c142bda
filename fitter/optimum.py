"""The optimal sparsity for a model size and a training budget (paper, section 3.3).

With C FLOPs, N non-zero parameters at the end and sparsity S, a run sees D_S = C / (6 N c_mul(S)) data.
Denser states on the way cost compute, so more sparsity means less data: S_opt(N, C) balances the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitter.accounting import Accounting, Schedule, cost_multiplier
from fitter.errors import SettingError
from fitter.forms import Form, Points
from fitter.intervals import bounds

if TYPE_CHECKING:
    from fitter.law import Law

Array = NDArray[np.float64]

SPARSEST = 0.999
"""The sparsest that is looked at (in u = -ln(1 - S)): no sweep says anything about what lies beyond."""
_COARSE = 65
_ZOOMS = 6
_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class Optimum:
    """Optimal sparsities, all arrays of the shape of the question.

    Args:
        sparsity, low, high: S_opt and its interval; 0 where a dense model is best.
        data: tokens or images that the budget buys at S_opt.
        loss, loss_low, loss_high: predicted loss there, and its interval.
        dense_loss: predicted loss of a dense model with as many parameters and the same budget.
        multiplier: c_mul(S_opt).
        extrapolates: whether S_opt, N or the data lie outside the fitted table.
        accounting: how FLOPs were counted.
        level: probability of the intervals.
    """

    sparsity: Array
    low: Array
    high: Array
    data: Array
    loss: Array
    loss_low: Array
    loss_high: Array
    dense_loss: Array
    multiplier: Array
    extrapolates: NDArray[np.bool_]
    nonzero_params: Array
    flops: Array
    accounting: str
    level: float


def accounting_name(accounting: Accounting) -> str:
    """How to call an accounting in an answer."""
    if isinstance(accounting, str):
        return accounting
    return f"schedule {accounting!r}" if isinstance(accounting, Schedule) else "measured"


def optimum(
    law: Law,
    nonzero_params: ArrayLike,
    flops: ArrayLike,
    accounting: Accounting = "dense",
    *,
    level: float | None = None,
) -> Optimum:
    """S_opt(N, C) with its interval; `nonzero_params` and `flops` broadcast.

    Closed form where the law has one (dense accounting), numeric minimisation over S elsewhere.

    Raises:
        SettingError: N or C not positive, or a law that does not depend on sparsity.
    """
    level = law.level if level is None else level
    n, c = np.broadcast_arrays(np.asarray(nonzero_params, dtype=float), np.asarray(flops, dtype=float))
    for name, column in (("nonzero_params", n), ("flops", c)):
        if np.any(~(np.isfinite(column) & (column > 0))):
            raise SettingError(f"{name} must be positive and finite")
    form, shape = law.law_form, n.shape
    if form.gain(law.raw, np.array([0.5])) is None:
        raise SettingError(f"law '{law.form}' does not depend on sparsity, so it has no optimal sparsity")
    n, c = n.ravel(), c.ravel()
    sparsity = optimal_sparsity(form, law.raw[None], n, c, accounting)[0]
    multiplier = cost_multiplier(sparsity, accounting)
    data = c / (6.0 * n * multiplier)
    predicted = law.predict(sparsity, n, data, level=level, new_run=False)
    dense = law.loss(0.0, n, c / (6.0 * n * cost_multiplier(0.0, accounting)))
    if law.draws.shape[0]:
        low, high = bounds(optimal_sparsity(form, law.draws, n, c, accounting), level)
    else:
        low = high = np.full(n.size, np.nan)
    outside = _outside(law, sparsity, n, data)
    return Optimum(
        sparsity=sparsity.reshape(shape),
        low=low.reshape(shape),
        high=high.reshape(shape),
        data=data.reshape(shape),
        loss=predicted.loss.reshape(shape),
        loss_low=predicted.low.reshape(shape),
        loss_high=predicted.high.reshape(shape),
        dense_loss=dense.reshape(shape),
        multiplier=multiplier.reshape(shape),
        extrapolates=outside.reshape(shape),
        nonzero_params=n.reshape(shape),
        flops=c.reshape(shape),
        accounting=accounting_name(accounting),
        level=level,
    )


def _outside(law: Law, sparsity: Array, nonzero_params: Array, data: Array) -> NDArray[np.bool_]:
    """Whether any coordinate lies outside the fitted table's ranges (False for documents without ranges)."""
    ranges = law.diagnostics.get("ranges", {})
    outside = np.zeros(sparsity.size, bool)
    for name, column in (("sparsity", sparsity), ("nonzero_params", nonzero_params), ("data", data)):
        if name in ranges:
            low, high = ranges[name]
            outside |= (column < low * (1 - 1e-9)) | (column > high * (1 + 1e-9))
    return outside


def optimal_sparsity(
    form: Form, raw: Array, nonzero_params: Array, flops: Array, accounting: Accounting
) -> Array:
    """S_opt [B, m] of raw coefficients [B, p] at N, C [m]."""
    if accounting == "dense":
        closed = form.dense_optimal_sparsity(raw, nonzero_params, flops)
        if closed is not None:
            return np.minimum(closed, SPARSEST)
    return minimise_over_sparsity(form, raw, nonzero_params, flops, accounting)


def minimise_over_sparsity(
    form: Form, raw: Array, nonzero_params: Array, flops: Array, accounting: Accounting
) -> Array:
    """S_opt [B, m] by a coarse scan of u = -ln(1 - S) and zooming in; works for any form and accounting."""
    count, cases = raw.shape[0], nonzero_params.size
    parts = np.array_split(np.arange(cases), -(-count * cases * _COARSE // _ELEMENTS))
    return np.concatenate(
        [_scan(form, raw, nonzero_params[part], flops[part], accounting) for part in parts], axis=1
    )


def _scan(form: Form, raw: Array, nonzero_params: Array, flops: Array, accounting: Accounting) -> Array:
    count, cases = raw.shape[0], nonzero_params.size
    last = -np.log1p(-SPARSEST)
    offsets = np.linspace(0.0, last, _COARSE)
    spacing = offsets[1]
    u = np.broadcast_to(offsets, (count, cases, _COARSE))
    best = np.zeros((count, cases))
    for zoom in range(_ZOOMS):
        first = zoom == 0
        sparsity = -np.expm1(-u)
        # all draws share the coarse grid, so its cost is computed once
        priced = sparsity[:1, :1] if first else sparsity
        multiplier = cost_multiplier(priced, accounting)
        data = flops[:, None] / (6.0 * nonzero_params[:, None] * multiplier)
        data = np.broadcast_to(data, u.shape).reshape(count, -1)
        flat = Points(
            sparsity.reshape(count, -1),
            np.broadcast_to(nonzero_params[:, None], u.shape).reshape(count, -1),
            data,
            data,
        )
        loss = form.evaluate(raw, flat).reshape(u.shape)
        index = loss.argmin(axis=-1)
        best = np.take_along_axis(u, index[..., None], axis=-1)[..., 0]
        low, high = np.maximum(best - spacing, 0.0), np.minimum(best + spacing, last)
        steps = np.linspace(0.0, 1.0, 13)
        u = low[..., None] + (high - low)[..., None] * steps
        spacing = spacing / 6.0
    return np.asarray(-np.expm1(-best))
