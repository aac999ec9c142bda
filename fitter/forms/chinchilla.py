"""The dense law of Hoffmann et al. (2022), arXiv 2203.15556, equation 2: L = E + A / N^α + B / D^β."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from fitter.forms.form import Array, Form, Parameter, Points, Scales, columns


class Chinchilla(Form):
    """Three additive terms: irreducible, capacity, data. Blind to sparsity."""

    name = "chinchilla"
    formula = "L = E + A / N^alpha + B / D^beta"
    source = "Hoffmann et al. 2022, arXiv 2203.15556, equation 2"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("E", "loss", "irreducible loss", 0.0, np.inf),
        Parameter("A", "loss · params^alpha", "capacity coefficient", 0.0, np.inf),
        Parameter("alpha", "1", "exponent of the number of parameters", 0.005, 4.0),
        Parameter("B", "loss · data^beta", "data coefficient", 0.0, np.inf),
        Parameter("beta", "1", "exponent of the amount of data", 0.005, 4.0),
    )
    linear = ("A", "B", "E")
    shape = ("alpha", "beta")
    families = (("A", "alpha"), ("B", "beta"))

    def grid(self) -> tuple[Array, ...]:
        return (np.geomspace(0.02, 2.5, 20), np.geomspace(0.02, 2.5, 20))

    def levels_needed(self, free: frozenset[str]) -> dict[str, int]:
        """Along each axis the law is (coefficient, exponent, constant); E is shared by both axes."""
        capacity, data = len(free & {"A", "alpha"}), len(free & {"B", "beta"})
        return {
            "nonzero_params": 1 + capacity if capacity else 1,
            "data": 1 + data if data else 1,
        }

    def scales(self, points: Points, pins: Mapping[str, float], tied: frozenset[str]) -> Scales:
        scales = super().scales(points, pins, tied)
        held = set(pins) | tied
        return replace(
            scales,
            nonzero_params=1.0 if "A" in held else scales.nonzero_params,
            data=1.0 if "B" in held else scales.data,
        )

    def capacity(self, points: Points) -> Array:
        """The parameter count that enters the capacity term, [n]."""
        return points.nonzero_params

    def inputs(self, points: Points, scales: Scales) -> Array:
        return np.stack(
            [
                np.log(self.capacity(points)) - np.log(scales.nonzero_params),
                np.log(points.data) - np.log(scales.data),
            ]
        )

    def basis(self, shape: Array, inputs: Array) -> Array:
        params, data = inputs
        out = np.empty((*shape.shape[:-1], 3, inputs.shape[-1]))
        np.exp(-shape[..., 0, None] * params, out=out[..., 0, :])
        np.exp(-shape[..., 1, None] * data, out=out[..., 1, :])
        out[..., 2, :] = 1.0
        return out

    def slopes(self, shape: Array, inputs: Array, weighted: Array) -> Array:
        params, data = inputs
        return np.stack([weighted[..., 0, :] * -params, weighted[..., 1, :] * -data], axis=-2)

    def to_raw(self, working: Array, scales: Scales) -> Array:
        a, b, e, alpha, beta = np.moveaxis(np.asarray(working, dtype=float), -1, 0)
        return np.stack([e, a * scales.nonzero_params**alpha, alpha, b * scales.data**beta, beta], axis=-1)

    def to_working(self, raw: Array, scales: Scales) -> Array:
        e, a, alpha, b, beta = np.moveaxis(np.asarray(raw, dtype=float), -1, 0)
        return np.stack([a * scales.nonzero_params**-alpha, b * scales.data**-beta, e, alpha, beta], axis=-1)

    def chinchilla_data(self, raw: Array, nonzero_params: Array) -> Array:
        _, a, alpha, b, beta = columns(raw)
        return np.asarray((beta * b / (alpha * a) * nonzero_params**alpha) ** (1.0 / beta))

    def data_for_loss(self, raw: Array, loss: Array, sparsity: Array, nonzero_params: Array) -> Array:
        e, a, alpha, b, beta = columns(raw)
        n = self.capacity(Points(sparsity, nonzero_params, nonzero_params, nonzero_params))
        rest = loss - e - a * n**-alpha
        with np.errstate(divide="ignore"):
            return np.where(rest > 0, (b / np.maximum(rest, 0.0)) ** (1.0 / beta), np.inf)

    def params_for_loss(self, raw: Array, loss: Array, sparsity: Array, data: Array) -> Array:
        e, a, alpha, b, beta = columns(raw)
        rest = loss - e - b * data**-beta
        # the capacity of one parameter is what a parameter counts for at that sparsity
        one = self.capacity(Points(sparsity, np.ones_like(data), data, data))
        with np.errstate(divide="ignore"):
            return np.where(rest > 0, (a / np.maximum(rest, 0.0)) ** (1.0 / alpha) / one, np.inf)
