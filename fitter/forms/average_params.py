"""The law of Jin et al. (2025), "The Journey Matters", arXiv 2501.12486.

The Chinchilla form with the AVERAGE parameter count over training in place of N: a run that ends with N
non-zero parameters at sparsity S has held N · (mean density) / (1 − S) parameters on average.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fitter.accounting import mean_density
from fitter.forms.chinchilla import Chinchilla
from fitter.forms.form import Array, Parameter, Points, columns


class AverageParams(Chinchilla):
    """`Chinchilla` in the average number of parameters under the fit's pruning schedule."""

    name = "average-params"
    formula = "L = E + A / N_avg^alpha + B / D^beta,  N_avg = N · mean density / (1 - S)"
    source = "Jin et al. 2025, arXiv 2501.12486"
    parameters: ClassVar[tuple[Parameter, ...]] = tuple(
        Parameter(
            p.name,
            p.unit,
            p.meaning.replace("number of parameters", "average number of parameters"),
            p.low,
            p.high,
        )
        for p in Chinchilla.parameters
    )

    def average_over_final(self, sparsity: Array) -> Array:
        """N_avg / N: average over final parameter count."""
        return np.asarray(mean_density(self.schedule, sparsity) / (1.0 - sparsity))

    def capacity(self, points: Points) -> Array:
        return np.asarray(points.nonzero_params * self.average_over_final(points.sparsity))

    def gain(self, raw: Array, sparsity: Array) -> Array:
        """A dense model of N_avg parameters has the same loss: the gain is N_avg / N, whatever the fit."""
        ratio = self.average_over_final(np.asarray(sparsity, dtype=float))
        return np.broadcast_to(ratio, (*np.shape(raw)[:-1], ratio.size)).copy()

    def data_where_optimal(self, raw: Array, sparsity: Array, nonzero_params: Array, slope: Array) -> Array:
        _, a, alpha, b, beta = columns(raw)
        ratio = self.average_over_final(sparsity)
        step = 1e-5 * (1.0 - sparsity)
        low = np.maximum(sparsity - step, 0.0)
        rise = np.log(self.average_over_final(sparsity + step) / self.average_over_final(low))
        growth = rise / (sparsity + step - low)
        term = alpha * a * (nonzero_params * ratio) ** -alpha * growth / (beta * slope)
        return np.asarray((b / term) ** (1.0 / beta))

    def data_where_even(self, raw: Array, sparsity: Array, nonzero_params: Array, cost: Array) -> Array:
        _, a, alpha, b, beta = columns(raw)
        saved = a * nonzero_params**-alpha * (1.0 - self.average_over_final(sparsity) ** -alpha)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((b * (1.0 - cost**-beta) / saved) ** (1.0 / beta))
