"""The sparsity law of Frantar et al. (2023), arXiv 2309.08520, equation 3.

    L(S, N, D) = (a_S · (1 − S)^b_S + c_S) · N^(−b_N) + (a_D / D)^b_D + c

Sparsity multiplies the capacity term and does not interact with the data term. Given the exponents, the
law is linear in (a_S, c_S, a_D^b_D, c).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from fitter.forms.form import Array, Form, Parameter, Points, Scales, columns


class Sparsity(Form):
    """The paper's law: see the module docstring."""

    name = "sparsity"
    formula = "L = (a_S (1 - S)^b_S + c_S) N^-b_N + (a_D / D)^b_D + c"
    source = "Frantar et al. 2023, arXiv 2309.08520, equation 3"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "a_S", "loss · params^b_N", "part of the capacity coefficient that sparsity removes", 0.0, np.inf
        ),
        Parameter("b_S", "1", "exponent of the density 1 - S", 0.02, 12.0),
        Parameter(
            "c_S", "loss · params^b_N", "capacity coefficient in the limit of extreme sparsity", 0.0, np.inf
        ),
        Parameter("b_N", "1", "exponent of the number of non-zero parameters", 0.005, 4.0),
        Parameter("a_D", "data units", "data scale: the data term is 1 at D = a_D", 0.0, np.inf),
        Parameter("b_D", "1", "exponent of the amount of data", 0.02, 4.0),
        Parameter("c", "loss", "irreducible loss", 0.0, np.inf),
    )
    linear = ("a_S", "c_S", "a_D", "c")
    shape = ("b_S", "b_N", "b_D")
    families = (("a_D", "b_D", "c"),)

    def grid(self) -> tuple[Array, ...]:
        return (np.geomspace(0.1, 6.0, 9), np.geomspace(0.03, 1.6, 11), np.geomspace(0.03, 2.0, 9))

    def levels_needed(self, free: frozenset[str]) -> dict[str, int]:
        """Along each axis the law is (coefficient, exponent, constant): as many unknowns, as many levels.

        The constant of the data axis cannot come from the N axis: N → ∞ leaves (a_D / D)^b_D + c, not c.
        """
        capacity, rest = free & {"a_S", "c_S"}, free & {"a_D", "b_D", "c"}
        return {
            "sparsity": max(1, len(free & {"a_S", "b_S", "c_S"})),
            "nonzero_params": max(1, ("b_N" in free) + bool(capacity) + bool(rest)),
            "data": max(1, len(rest)),
        }

    def scales(self, points: Points, pins: Mapping[str, float], tied: frozenset[str]) -> Scales:
        scales = super().scales(points, pins, tied)
        if {"a_S", "c_S"} & (set(pins) | tied):
            scales = replace(scales, density=1.0, nonzero_params=1.0)
        if "a_D" in pins and "b_D" not in pins:
            # (a_D / D)^b_D is then D / a_D to a free power, with the constant 1 in front
            scales = replace(scales, data=pins["a_D"])
        return scales

    def inputs(self, points: Points, scales: Scales) -> Array:
        return np.stack(
            [
                np.log1p(-points.sparsity) - np.log(scales.density),
                np.log(points.nonzero_params) - np.log(scales.nonzero_params),
                np.log(points.data) - np.log(scales.data),
            ]
        )

    def basis(self, shape: Array, inputs: Array) -> Array:
        density, params, data = inputs
        out = np.empty((*shape.shape[:-1], 4, inputs.shape[-1]))
        np.exp(-shape[..., 1, None] * params, out=out[..., 1, :])
        np.multiply(np.exp(shape[..., 0, None] * density), out[..., 1, :], out=out[..., 0, :])
        np.exp(-shape[..., 2, None] * data, out=out[..., 2, :])
        out[..., 3, :] = 1.0
        return out

    def slopes(self, shape: Array, inputs: Array, weighted: Array) -> Array:
        density, params, data = inputs
        out = np.empty((*shape.shape[:-1], 3, inputs.shape[-1]))
        np.multiply(weighted[..., 0, :], density, out=out[..., 0, :])
        np.multiply(weighted[..., 0, :] + weighted[..., 1, :], -params, out=out[..., 1, :])
        np.multiply(weighted[..., 2, :], -data, out=out[..., 2, :])
        return out

    def to_raw(self, working: Array, scales: Scales) -> Array:
        a_s, c_s, a_d, c, b_s, b_n, b_d = np.moveaxis(np.asarray(working, dtype=float), -1, 0)
        capacity = scales.nonzero_params**b_n
        return np.stack(
            [
                a_s * capacity * scales.density**-b_s,
                b_s,
                c_s * capacity,
                b_n,
                scales.data * a_d ** (1.0 / b_d),
                b_d,
                c,
            ],
            axis=-1,
        )

    def to_working(self, raw: Array, scales: Scales) -> Array:
        a_s, b_s, c_s, b_n, a_d, b_d, c = np.moveaxis(np.asarray(raw, dtype=float), -1, 0)
        capacity = scales.nonzero_params**-b_n
        return np.stack(
            [
                a_s * capacity * scales.density**b_s,
                c_s * capacity,
                (a_d / scales.data) ** b_d,
                c,
                b_s,
                b_n,
                b_d,
            ],
            axis=-1,
        )

    def gain(self, raw: Array, sparsity: Array) -> Array:
        """Paper, equation 5: ((a_S (1 - S)^b_S + c_S) / (a_S + c_S))^(-1 / b_N)."""
        a_s, b_s, c_s, b_n, *_ = columns(raw)
        ratio = (a_s * (1.0 - sparsity) ** b_s + c_s) / np.maximum(a_s + c_s, 1e-300)
        # a draw without capacity, or with an exponent near nothing, has no finite gain
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.asarray(ratio ** (-1.0 / b_n))

    def dense_optimal_sparsity(self, raw: Array, nonzero_params: Array, flops: Array) -> Array:
        """Paper, section 3.3: closed form of the minimum over S under c_mul = 1 / (1 - S)."""
        a_s, b_s, _, b_n, a_d, b_d, _ = columns(raw)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            first = (np.log(b_d / (a_s * b_s)) + b_n * np.log(nonzero_params)) / (b_d + b_s)
            second = b_d / (b_d + b_s) * np.log(6.0 * a_d * nonzero_params / flops)
            # a_S = 0 or b_S = 0: sparsity removes nothing, so none is optimal
            return np.nan_to_num(np.maximum(0.0, -np.expm1(first + second)), nan=0.0)

    def data_where_optimal(self, raw: Array, sparsity: Array, nonzero_params: Array, slope: Array) -> Array:
        a_s, b_s, _, b_n, a_d, b_d, _ = columns(raw)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            term = a_s * b_s * (1.0 - sparsity) ** (b_s - 1.0) * nonzero_params**-b_n / (b_d * slope)
            return np.asarray(a_d * term ** (-1.0 / b_d))

    def data_where_even(self, raw: Array, sparsity: Array, nonzero_params: Array, cost: Array) -> Array:
        a_s, b_s, _, b_n, a_d, b_d, _ = columns(raw)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            saved = a_s * (1.0 - (1.0 - sparsity) ** b_s) * nonzero_params**-b_n
            return np.asarray(a_d * (saved / (1.0 - cost**-b_d)) ** (-1.0 / b_d))

    def chinchilla_data(self, raw: Array, nonzero_params: Array) -> Array:
        a_s, _, c_s, b_n, a_d, b_d, _ = columns(raw)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            term = b_n * (a_s + c_s) * nonzero_params**-b_n / b_d
            return np.asarray(a_d * term ** (-1.0 / b_d))

    def data_for_loss(self, raw: Array, loss: Array, sparsity: Array, nonzero_params: Array) -> Array:
        a_s, b_s, c_s, b_n, a_d, b_d, c = columns(raw)
        rest = loss - c - (a_s * (1.0 - sparsity) ** b_s + c_s) * nonzero_params**-b_n
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(rest > 0, a_d * np.maximum(rest, 0.0) ** (-1.0 / b_d), np.inf)

    def params_for_loss(self, raw: Array, loss: Array, sparsity: Array, data: Array) -> Array:
        a_s, b_s, c_s, b_n, a_d, b_d, c = columns(raw)
        rest = loss - c - (a_d / data) ** b_d
        capacity = a_s * (1.0 - sparsity) ** b_s + c_s
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(rest > 0, (capacity / np.maximum(rest, 0.0)) ** (1.0 / b_n), np.inf)
