"""The law of Muennighoff et al. (2023), arXiv 2305.16264: repeated data is worth less and less.

    L = E + A / N^α + B / D'^β,   D' = U + U · R* · (1 − exp(−(D / U − 1) / R*))

U is the distinct data (column `unique_data`), D / U − 1 the number of repeats, and R* the number of repeats
after which a further one is worth 1/e of fresh data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from fitter.forms.chinchilla import Chinchilla
from fitter.forms.form import Array, Form, Parameter, Points, Scales


class DataConstrained(Form):
    """`Chinchilla` in the effective amount of data."""

    name = "data-constrained"
    formula = "L = E + A / N^alpha + B / D'^beta,  D' = U + U R (1 - exp(-(D / U - 1) / R))"
    source = "Muennighoff et al. 2023, arXiv 2305.16264, equation 5"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *Chinchilla.parameters,
        Parameter("R_star", "repeats", "repeats after which one more is worth 1/e of fresh data", 0.05, 1e4),
    )
    linear = ("A", "B", "E")
    shape = ("alpha", "beta", "R_star")
    families = Chinchilla.families

    def grid(self) -> tuple[Array, ...]:
        return (np.geomspace(0.03, 2.0, 10), np.geomspace(0.03, 2.0, 10), np.geomspace(0.5, 200.0, 9))

    def levels_needed(self, free: frozenset[str]) -> dict[str, int]:
        needed = Chinchilla().levels_needed(free)
        return {**needed, "repeats": 3 if "R_star" in free else 1}

    def inputs(self, points: Points, scales: Scales) -> Array:
        return np.stack(
            [
                np.log(points.nonzero_params) - np.log(scales.nonzero_params),
                np.log(points.unique_data) - np.log(scales.data),
                points.data / points.unique_data - 1.0,
            ]
        )

    @staticmethod
    def _effective(shape: Array, inputs: Array) -> tuple[Array, Array]:
        """ln D' in normalised units and its derivative in R*, [..., n] each."""
        repeats, star = inputs[2], shape[..., 2, None]
        worth = -np.expm1(-repeats / star)
        total = 1.0 + star * worth
        slope = worth - repeats / star * (1.0 - worth)
        return inputs[1] + np.log(total), slope / total

    def basis(self, shape: Array, inputs: Array) -> Array:
        log_data, _ = self._effective(shape, inputs)
        out = np.empty((*shape.shape[:-1], 3, inputs.shape[-1]))
        np.exp(-shape[..., 0, None] * inputs[0], out=out[..., 0, :])
        np.exp(-shape[..., 1, None] * log_data, out=out[..., 1, :])
        out[..., 2, :] = 1.0
        return out

    def slopes(self, shape: Array, inputs: Array, weighted: Array) -> Array:
        log_data, by_star = self._effective(shape, inputs)
        data = weighted[..., 1, :]
        return np.stack(
            [weighted[..., 0, :] * -inputs[0], data * -log_data, data * -shape[..., 1, None] * by_star],
            axis=-2,
        )

    def to_raw(self, working: Array, scales: Scales) -> Array:
        first = Chinchilla().to_raw(np.asarray(working)[..., :5], scales)
        return np.concatenate([first, np.asarray(working)[..., 5:]], axis=-1)

    def to_working(self, raw: Array, scales: Scales) -> Array:
        first = Chinchilla().to_working(np.asarray(raw)[..., :5], scales)
        return np.concatenate([first, np.asarray(raw)[..., 5:]], axis=-1)

    def scales(self, points: Points, pins: Mapping[str, float], tied: frozenset[str]) -> Scales:
        return Chinchilla().scales(points, pins, tied)
