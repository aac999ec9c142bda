"""A fit as a plain value: form, normalised inputs, targets, weights, and which parameters are free.

Pins and ties are one linear map: working parameters = offset + tie @ free, so the solver only ever sees
free parameters within a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitter.errors import SettingError
from fitter.forms.form import Form, Points, Scales
from fitter.objective import Residual

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Everything that determines the fit.

    Args:
        form: the law form.
        scales: normalising units of the working parameters.
        inputs: [m, n] what the basis reads.
        loss: [n] measured losses.
        weights: [n] weight of each run, mean one.
        residual: "log" or "raw".
        delta: Huber threshold, in units of the residual.
        tie: [p, q] and offset: [p], working = offset + tie @ free.
        low, high: [q] box of the free parameters.
        free: names of the q free parameters (raw name of the parameter that leads each).
    """

    form: Form
    scales: Scales
    inputs: Array
    loss: Array
    weights: Array
    residual: Residual
    delta: float
    tie: Array
    offset: Array
    low: Array
    high: Array
    free: tuple[str, ...]

    @property
    def runs(self) -> int:
        return int(self.loss.size)

    @property
    def targets(self) -> Array:
        """[n] what residuals are measured against: log L or L."""
        return np.log(self.loss) if self.residual == "log" else self.loss

    @property
    def identity(self) -> bool:
        """Whether all parameters are free, so that the map is the identity."""
        return bool(self.tie.shape[0] == self.tie.shape[1])

    def working(self, free: Array) -> Array:
        """[..., q] free -> [..., p] working."""
        return free if self.identity else np.asarray(free @ self.tie.T + self.offset)

    def raw(self, free: Array) -> Array:
        """[..., q] free -> [..., p] raw coefficients."""
        return self.form.to_raw(self.working(free), self.scales)

    def free_of(self, raw: Array) -> Array:
        """[..., p] raw coefficients that respect pins and ties -> [..., q] free."""
        working = self.form.to_working(raw, self.scales)
        lead = np.argmax(self.tie != 0, axis=0)
        return np.asarray(working[..., lead])

    def linear_count(self) -> int:
        """How many free parameters belong to the linear block; they come first."""
        return sum(name in self.form.linear for name in self.free)


def build_problem(
    form: Form,
    points: Points,
    loss: Array,
    *,
    residual: Residual = "log",
    delta: float = 1e-3,
    weights: Array | None = None,
    pins: Mapping[str, float] | None = None,
    ties: Mapping[str, str] | None = None,
) -> Problem:
    """Normalise units and fold pins and ties into a linear map.

    Args:
        pins: raw parameter name -> value to hold it at.
        ties: raw parameter name -> name of the parameter it must equal; both of the same unit.

    Raises:
        SettingError: unknown names, a pin outside its bounds, a tie between different units, nothing left free.
    """
    pins, ties = dict(pins or {}), dict(ties or {})
    known = {parameter.name: parameter for parameter in form.parameters}
    for name in (*pins, *ties, *ties.values()):
        if name not in known:
            raise SettingError(f"law '{form.name}' has no parameter '{name}'; it has {', '.join(known)}")
    for name, value in pins.items():
        if not known[name].low <= value <= known[name].high:
            raise SettingError(
                f"pin {name} = {value!r} is outside its bounds [{known[name].low}, {known[name].high}]"
            )
    for name, leader in ties.items():
        if name in pins or leader in ties or leader == name:
            raise SettingError(f"tie {name} = {leader}: tie free parameters to one that is not itself tied")
        if known[name].unit != known[leader].unit:
            raise SettingError(
                f"tie {name} = {leader}: their units differ ({known[name].unit} and {known[leader].unit})"
            )
        if leader in pins:
            pins[name] = pins[leader]
    ties = {name: leader for name, leader in ties.items() if name not in pins}
    if residual not in ("log", "raw"):
        raise SettingError(f"residual must be 'log' or 'raw', got {residual!r}")
    if not (np.isfinite(delta) and delta > 0):
        raise SettingError(f"huber_delta must be a positive number, got {delta!r}")

    scales = form.scales(points, pins, frozenset(ties) | frozenset(ties.values()))
    names = form.working_names
    free = tuple(name for name in names if name not in pins and name not in ties)
    if not free:
        raise SettingError("every parameter is pinned: there is nothing to fit")
    raw = np.array([pins.get(name, 0.5) for name in form.names])
    offset = np.where([name in pins for name in names], form.to_working(raw, scales), 0.0)
    tie = np.zeros((len(names), len(free)))
    for row, name in enumerate(names):
        leader = ties.get(name, name)
        if leader in free:
            tie[row, free.index(leader)] = 1.0
    low, high = form.bounds()
    members = tie != 0
    return Problem(
        form=form,
        scales=scales,
        inputs=form.inputs(points, scales),
        loss=np.asarray(loss, dtype=float),
        weights=np.ones(np.size(loss)) if weights is None else np.asarray(weights, dtype=float),
        residual=residual,
        delta=float(delta),
        tie=tie,
        offset=offset,
        low=np.array([low[members[:, j]].max() for j in range(len(free))]),
        high=np.array([high[members[:, j]].min() for j in range(len(free))]),
        free=free,
    )
