"""The fitting objective: Huber loss of raw or log residuals (paper, section 3.2).

    raw  r = L̂ − L          log  r = log L̂ − log L
    ρ(r) = r² / 2 for |r| ≤ δ,  δ (|r| − δ / 2) beyond

Reported is the weighted MEAN of ρ; optimisers work on the sum, because with the mean their tolerances stop
them early.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Residual = Literal["log", "raw"]


def huber(residuals: Array, delta: Array | float) -> Array:
    """ρ(r), elementwise."""
    size = np.abs(residuals)
    inside = np.minimum(size, delta)
    return np.asarray(inside * (size - 0.5 * inside))


def mean_huber(residuals: Array, delta: float, weights: Array | None = None) -> float:
    """Weighted mean of ρ(r) over [n] residuals."""
    return float(np.average(huber(residuals, delta), weights=weights))


def residuals(predicted: Array, loss: Array, kind: Residual) -> Array:
    """L̂ − L or log L̂ − log L. A prediction that is not positive has an infinite log residual."""
    if kind == "raw":
        return predicted - loss
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(predicted > 0, np.log(predicted) - np.log(loss), -np.inf)
