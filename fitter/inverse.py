"""Inverse questions to a law: what is needed for a loss, what a sparse model is worth, when sparsity pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitter.accounting import Accounting, cost_multiplier
from fitter.contours import cost_slope
from fitter.errors import SettingError
from fitter.intervals import bounds
from fitter.law import Estimate, Law

Array = NDArray[np.float64]

# Least compute for a loss is sought over these: sparsity up to 0.98, sizes over ten decades around the fit's.
_SPARSITIES = -np.expm1(-np.linspace(0.0, 4.0, 81))
_SIZES = 241


@dataclass(frozen=True)
class Cheapest:
    """The least training compute that reaches a loss, and the run that does it; arrays of the question's shape.

    Args:
        flops, low, high: compute and its interval; inf where the loss cannot be reached.
        sparsity, nonzero_params, data: that run.
        level: probability of the interval.
    """

    flops: Array
    low: Array
    high: Array
    sparsity: Array
    nonzero_params: Array
    data: Array
    level: float


def data_for_loss(
    law: Law, loss: ArrayLike, sparsity: ArrayLike, nonzero_params: ArrayLike, *, level: float | None = None
) -> Estimate:
    """Training data (tokens or images) with which N parameters at sparsity S reach `loss`; inf: never."""
    s, n, target = _broadcast(sparsity, nonzero_params, loss)
    return _estimate(
        law, lambda raw: law.law_form.data_for_loss(raw, target.ravel(), s.ravel(), n.ravel()), s.shape, level
    )


def params_for_loss(
    law: Law, loss: ArrayLike, sparsity: ArrayLike, data: ArrayLike, *, level: float | None = None
) -> Estimate:
    """Smallest number of non-zero parameters that reaches `loss` with that data; inf: none does."""
    s, d, target = _broadcast(sparsity, data, loss)
    return _estimate(
        law,
        lambda raw: law.law_form.params_for_loss(raw, target.ravel(), s.ravel(), d.ravel()),
        s.shape,
        level,
    )


def compute_for_loss(
    law: Law,
    loss: ArrayLike,
    *,
    sparsity: float | None = None,
    nonzero_params: float | None = None,
    accounting: Accounting = "dense",
    level: float | None = None,
) -> Cheapest:
    """Smallest training compute that reaches `loss` [m], over the sparsities and sizes left open.

    Args:
        sparsity, nonzero_params: hold one or both; None searches over it.
        accounting: how FLOPs are counted.
    """
    level = law.level if level is None else level
    target = np.atleast_1d(np.asarray(loss, dtype=float))
    shape = np.shape(loss)
    s = _SPARSITIES if sparsity is None else np.array([float(sparsity)])
    if nonzero_params is None:
        low, high = law.diagnostics.get("ranges", {}).get("nonzero_params", [1e6, 1e9])
        n = np.geomspace(low / 1e3, high * 1e5, _SIZES)
    else:
        n = np.array([float(nonzero_params)])
    flat_s, flat_n = (a.ravel() for a in np.meshgrid(s, n, indexing="ij"))
    cost = 6.0 * flat_n * cost_multiplier(flat_s, accounting)

    def least(raw: Array, value: float) -> tuple[Array, NDArray[np.intp]]:
        data = law.law_form.data_for_loss(raw, np.full(flat_s.size, value), flat_s, flat_n)
        if data is None:
            raise SettingError(f"law '{law.form}' cannot be solved for data in closed form")
        flops = data * cost
        best = flops.argmin(axis=-1)
        return np.take_along_axis(flops, best[:, None], axis=-1)[:, 0], best

    point = [least(law.raw[None], value) for value in target]
    index = np.array([best[0] for _, best in point])
    flops = np.array([found[0] for found, _ in point])
    if law.draws.shape[0]:
        drawn = np.stack([_in_parts(law.draws, value, least) for value in target], axis=1)
        low_c, high_c = bounds(drawn, level)
    else:
        low_c = high_c = np.full(target.size, np.nan)
    return Cheapest(
        flops=flops.reshape(shape),
        low=low_c.reshape(shape),
        high=high_c.reshape(shape),
        sparsity=flat_s[index].reshape(shape),
        nonzero_params=flat_n[index].reshape(shape),
        data=(flops / cost[index]).reshape(shape),
        level=level,
    )


def _in_parts(
    draws: Array, value: float, least: Callable[[Array, float], tuple[Array, NDArray[np.intp]]]
) -> Array:
    return np.concatenate([least(part, value)[0] for part in np.array_split(draws, 1 + draws.shape[0] // 50)])


def dense_equivalent(
    law: Law, sparsity: ArrayLike, nonzero_params: ArrayLike, *, level: float | None = None
) -> Estimate:
    """Parameters of the dense model with the same loss at the same data: gain(S) · N."""
    s, n = _broadcast(sparsity, nonzero_params)
    gain = law.gain_at(s, level=level)
    return Estimate(gain.value * n, gain.low * n, gain.high * n, gain.level)


def pays_from(
    law: Law,
    sparsity: ArrayLike,
    nonzero_params: ArrayLike,
    *,
    accounting: Accounting = "dense",
    against: Literal["other sparsities", "dense"] = "other sparsities",
    unit: Literal["data", "flops", "times dense-optimal"] = "data",
    level: float | None = None,
) -> Estimate:
    """At which training length sparsity S starts to pay for N non-zero parameters.

    Args:
        against: "other sparsities": from where S or more is optimal (the contour of S). "dense": from where
            S beats a dense model with as many parameters and the same compute, which is sooner.
        unit: "data" that the sparse run sees, "flops" of training, or compute in "times dense-optimal"
            (relative to the compute at which N is the best size of a dense model).
    """
    s, n = _broadcast(sparsity, nonzero_params)
    flat_s, flat_n = s.ravel(), n.ravel()
    cost = 6.0 * flat_n * cost_multiplier(flat_s, accounting)
    slope = cost_slope(flat_s, accounting)
    relative = cost_multiplier(flat_s, accounting) / cost_multiplier(0.0, accounting)
    form = law.law_form

    def answer(raw: Array) -> Array | None:
        if against == "dense":
            data = form.data_where_even(raw, flat_s, flat_n, relative)
        elif against == "other sparsities":
            data = form.data_where_optimal(raw, flat_s, flat_n, slope)
        else:
            raise SettingError(f"against must be 'other sparsities' or 'dense', got {against!r}")
        if data is None or unit == "data":
            return data
        if unit == "flops":
            return np.asarray(data * cost)
        if unit == "times dense-optimal":
            dense = form.chinchilla_data(raw, flat_n)
            return None if dense is None else np.asarray(data * cost / (6.0 * flat_n * dense))
        raise SettingError(f"unit must be data, flops or times dense-optimal, got {unit!r}")

    return _estimate(law, answer, s.shape, level)


def _broadcast(*arguments: ArrayLike) -> list[Array]:
    return [np.asarray(a) for a in np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in arguments))]


def _estimate(
    law: Law, answer: Callable[[Array], Array | None], shape: tuple[int, ...], level: float | None
) -> Estimate:
    """An answer [B, m] to raw coefficients [B, p], with the interval of its draws."""
    level = law.level if level is None else level
    value = answer(law.raw[None])
    if value is None:
        raise SettingError(f"law '{law.form}' does not answer this question")
    value = value[0]
    drawn = answer(law.draws) if law.draws.shape[0] else None
    if drawn is None:
        low = high = np.full(value.shape, np.nan)
    else:
        low, high = bounds(drawn, level)
    return Estimate(value.reshape(shape), low.reshape(shape), high.reshape(shape), level)
