"""What a law form is: a sum of non-negative coefficients times positive basis functions.

    L(x) = sum_k  w_k · B_k(x; e)

The coefficients w (the *linear* block) enter linearly once the shape parameters e (exponents) are given:
that split is what variable projection uses (Golub and Pereyra 1973). A form writes its basis and the
slopes of its basis; evaluation, the Jacobian and the normalisation of units follow from these.

*Working* parameters are (w, e) in normalised units, where N and D are divided by their geometric means in
the table. *Raw* parameters are what is reported: units of parameters, tokens (or images), and loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fitter.accounting import PAPER_SCHEDULE, Schedule

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One coefficient of a law: its name, unit, meaning, and the bounds within which it is sought."""

    name: str
    unit: str
    meaning: str
    low: float
    high: float


@dataclass(frozen=True)
class Points:
    """Where a law is evaluated: arrays of one shape [n].

    Args:
        sparsity: weight sparsity, fraction in [0, 1).
        nonzero_params: N, number of non-zero parameters.
        data: D, tokens or images seen in training.
        unique_data: distinct tokens or images; equal to `data` where nothing repeats.
    """

    sparsity: Array
    nonzero_params: Array
    data: Array
    unique_data: Array


@dataclass(frozen=True)
class Scales:
    """Units that the working parameters are measured in. All ones gives raw units."""

    density: float = 1.0
    nonzero_params: float = 1.0
    data: float = 1.0


def columns(raw: Array) -> list[Array]:
    """Each coefficient of raw [..., p] as [..., 1], to broadcast against questions [m]."""
    return [np.asarray(raw)[..., index, None] for index in range(np.shape(raw)[-1])]


class Form(ABC):
    """A law form. Subclasses are stateless but for options (such as a pruning schedule)."""

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    #: raw parameters in reported order
    parameters: ClassVar[tuple[Parameter, ...]]
    #: which raw parameter each linear weight becomes, and each shape parameter
    linear: ClassVar[tuple[str, ...]]
    shape: ClassVar[tuple[str, ...]]
    #: groups of raw parameters that trade off along one axis: identified together or not at all
    families: ClassVar[tuple[tuple[str, ...], ...]] = ()
    #: raw parameters that a fit takes from a base law instead of the runs
    inherits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schedule: Schedule = PAPER_SCHEDULE) -> None:
        self.schedule = schedule

    # ---- to be written by each form -------------------------------------------------------------

    @abstractmethod
    def inputs(self, points: Points, scales: Scales) -> Array:
        """What the basis reads: [m, n], usually logarithms of normalised columns."""

    @abstractmethod
    def basis(self, shape: Array, inputs: Array) -> Array:
        """Basis functions B: [..., k, n] for shape parameters [..., e]."""

    @abstractmethod
    def slopes(self, shape: Array, inputs: Array, weighted: Array) -> Array:
        """sum_k w_k dB_k/de_j: [..., e, n], given `weighted` = w_k · B_k [..., k, n]."""

    @abstractmethod
    def to_raw(self, working: Array, scales: Scales) -> Array:
        """Raw parameters [..., p] (order of `parameters`) of working parameters [..., p]."""

    @abstractmethod
    def to_working(self, raw: Array, scales: Scales) -> Array:
        """Inverse of `to_raw`."""

    @abstractmethod
    def grid(self) -> tuple[Array, ...]:
        """Coarse grid of each shape parameter, covering all values met in the field."""

    @abstractmethod
    def levels_needed(self, free: frozenset[str]) -> dict[str, int]:
        """How many distinct values each axis of the table must have to identify the `free` raw parameters."""

    def scales(self, points: Points, pins: Mapping[str, float], tied: frozenset[str]) -> Scales:
        """Normalising units for this table: geometric means, so that coefficients and exponents decorrelate.

        A raw coefficient that is pinned (`pins`, raw values) or `tied` must stay so in working units whatever
        the exponents do; forms override the scale that would couple it with a free exponent.
        """
        return Scales(
            density=float(np.exp(np.mean(np.log1p(-points.sparsity)))),
            nonzero_params=float(np.exp(np.mean(np.log(points.nonzero_params)))),
            data=float(np.exp(np.mean(np.log(points.data)))),
        )

    # ---- what follows from them -----------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Raw parameter names in reported order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def working_names(self) -> tuple[str, ...]:
        """Names in working order: linear block first, then shape parameters."""
        return self.linear + self.shape

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the working parameters, [p] each."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        low = [0.0] * len(self.linear) + [by_name[name].low for name in self.shape]
        high = [np.inf] * len(self.linear) + [by_name[name].high for name in self.shape]
        return np.array(low), np.array(high)

    def evaluate(self, raw: Array, points: Points) -> Array:
        """Loss [..., n] of raw parameters [..., p] at points [n]."""
        unit = Scales()
        working = self.to_working(np.asarray(raw, dtype=float), unit)
        count = len(self.linear)
        basis = self.basis(working[..., count:], self.inputs(points, unit))
        return np.asarray((working[..., :count, None] * basis).sum(axis=-2))

    def value_and_jacobian(self, working: Array, inputs: Array) -> tuple[Array, Array]:
        """Loss [..., n] and its derivatives [..., p, n] with respect to the working parameters."""
        count = len(self.linear)
        shape = working[..., count:]
        basis = self.basis(shape, inputs)
        weighted = working[..., :count, None] * basis
        jacobian = np.concatenate([basis, self.slopes(shape, inputs, weighted)], axis=-2)
        return weighted.sum(axis=-2), jacobian

    def value(self, working: Array, inputs: Array) -> Array:
        """Loss [..., n] of working parameters [..., p]."""
        count = len(self.linear)
        basis = self.basis(working[..., count:], inputs)
        return np.asarray((working[..., :count, None] * basis).sum(axis=-2))

    def dense_optimal_sparsity(self, raw: Array, nonzero_params: Array, flops: Array) -> Array | None:
        """Closed form of S_opt [B, m] under dense accounting, raw [B, p]; None where there is none."""
        return None

    def data_where_optimal(
        self, raw: Array, sparsity: Array, nonzero_params: Array, slope: Array
    ) -> Array | None:
        """The amount of data [B, m] at which sparsity S [m] is optimal for N [m]; None where undefined.

        `slope` [m] is d ln c_mul / dS. From dL/dS = 0 with d ln D / dS = -d ln c_mul / dS.
        """
        return None

    def data_where_even(
        self, raw: Array, sparsity: Array, nonzero_params: Array, cost: Array
    ) -> Array | None:
        """The data [B, m] of a sparse run that ties with a dense one of equal N and compute.

        `cost` [m] is c_mul(S) / c_mul(0): the dense run sees that much more data.
        """
        return None

    def chinchilla_data(self, raw: Array, nonzero_params: Array) -> Array | None:
        """The amount of data [B, m] at which N [m] is the best size of a DENSE model for its compute."""
        return None

    def data_for_loss(self, raw: Array, loss: Array, sparsity: Array, nonzero_params: Array) -> Array | None:
        """Data [B, m] at which the loss [m] is reached; inf where it never is; None where not in closed form."""
        return None

    def params_for_loss(self, raw: Array, loss: Array, sparsity: Array, data: Array) -> Array | None:
        """Non-zero parameters [B, m] at which the loss [m] is reached; inf where it never is."""
        return None

    def gain(self, raw: Array, sparsity: Array) -> Array | None:
        """Dense-equivalent size multiplier: [..., m] for raw [..., p] and sparsity [m]; None where undefined."""
        return None
