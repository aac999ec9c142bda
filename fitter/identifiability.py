"""Can these runs identify that law at all? Asked before a fit; sweeps are partial for most of their life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.forms import get_form
from fitter.table import Runs, check

Array = NDArray[np.float64]

_AXES = ("sparsity", "nonzero_params", "data")
# Below this factor a power law along the axis is hard to tell from a straight line plus a constant, and the
# exponent, its coefficient and the constant trade off against one another.
_WIDE = {"sparsity": 4.0, "nonzero_params": 10.0, "data": 10.0}
# Values within this factor of a level's lowest are that level: 15,984 and 16,016 weights are one size, which widths and
# counts of zeros round differently at different sparsities. Counted as two, they would pass for a span.
_ONE_LEVEL = 1.02


@dataclass(frozen=True)
class Identifiability:
    """The verdict on a table for one law form.

    Args:
        identified: whether a fit makes sense.
        missing: what is missing and which runs would fix it, one sentence each; empty when identified.
        weak: what will be known poorly, one sentence each; a fit still makes sense.
        levels: distinct values per axis, those within 2 % (of 1 - S for sparsity) counted as one.
        spans: largest over smallest value per axis (of the density 1 - S for sparsity).
        cells: distinct cells (seeds of one cell count once).
        parameters: free parameters of the fit.
    """

    identified: bool
    missing: list[str]
    weak: list[str]
    levels: dict[str, int]
    spans: dict[str, float]
    cells: int
    parameters: int

    def document(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "identified": self.identified,
            "missing": list(self.missing),
            "weak": list(self.weak),
            "levels": dict(self.levels),
            "spans": dict(self.spans),
            "cells": self.cells,
            "parameters": self.parameters,
        }


def gate(
    table: Any,
    form: str = "sparsity",
    *,
    pins: Mapping[str, float] | None = None,
    ties: Mapping[str, str] | None = None,
) -> Identifiability:
    """Levels and span per axis, what is missing, and which runs would supply it.

    Args:
        table: anything `fitter.table.check` takes.
        form: name of the law form.
        pins, ties: as for the fit; parameters held need no runs.

    Raises:
        TableError: the table itself is bad.
        SettingError: no such form.
    """
    runs = check(table)
    law = get_form(form)
    held = {*(pins or {}), *(ties or {}), *law.inherits}
    free = frozenset(law.names) - held
    needed = law.levels_needed(free)
    values = {axis: _levels(axis, getattr(runs, axis)) for axis in _AXES}
    density = 1.0 - runs.sparsity
    spans = {
        "sparsity": float(density.max() / density.min()),
        "nonzero_params": float(runs.nonzero_params.max() / runs.nonzero_params.min()),
        "data": float(runs.data.max() / runs.data.min()),
    }
    cells = int(np.unique(runs.cells()).size)
    missing = [
        _too_few_levels(axis, values[axis], needed.get(axis, 1), law.name)
        for axis in _AXES
        if values[axis].size < needed.get(axis, 1)
    ]
    if cells <= len(free):
        missing.append(
            f"{cells} distinct cells for {len(free)} free parameters of '{law.name}': at least {len(free) + 1} "
            f"are needed, and about {3 * len(free)} for useful intervals; add {len(free) + 1 - cells} or more"
        )
    repeats = np.unique((runs.data / runs.unique_data).round(6))
    if repeats.size < needed.get("repeats", 1):
        missing.append(
            f"data / unique_data has {repeats.size} distinct values, the law '{law.name}' needs "
            f"{needed['repeats']}: add a unique_data column, and runs that repeat their data, such as 4 and 16 times"
        )
    if not missing:
        missing += _confounded(runs, {axis for axis in _AXES if needed.get(axis, 1) > 1})
    weak = [
        f"{axis} spans a factor of {spans[axis]:.3g}"
        + (" in 1 - sparsity" if axis == "sparsity" else "")
        + f", less than {_WIDE[axis]:g}: its exponent and the constant beside it will be poorly known; "
        + _wider(axis, values[axis])
        for axis in _AXES
        if needed.get(axis, 1) > 1 and values[axis].size >= needed[axis] and spans[axis] < _WIDE[axis]
    ]
    return Identifiability(
        identified=not missing,
        missing=missing,
        weak=weak,
        levels={axis: int(values[axis].size) for axis in _AXES},
        spans=spans,
        cells=cells,
        parameters=len(free),
    )


def _levels(axis: str, values: Array) -> Array:
    """The lowest value of each level, ascending [levels]."""
    if axis == "sparsity":
        return 1.0 - _levels("density", 1.0 - values)[::-1]
    return np.exp(np.unique(_rounded(np.log(values))))


def _rounded(logs: Array) -> Array:
    """Each value's level, as the logarithm of the level's lowest value: shaped as `logs`."""
    distinct, places = np.unique(logs, return_inverse=True)
    lowest, begin = distinct.copy(), 0
    while begin < distinct.size:
        end = int(np.searchsorted(distinct, distinct[begin] + np.log(_ONE_LEVEL), side="right"))
        lowest[begin:end] = distinct[begin]
        begin = end
    return lowest[places]


def _too_few_levels(axis: str, values: Array, needed: int, form: str) -> str:
    have = ", ".join(f"{value:g}" for value in values)
    plural = "level" if values.size == 1 else "levels"
    return (
        f"{axis} has {values.size} {plural} ({have}), the law '{form}' needs {needed}: "
        f"add runs at {_additions(axis, values, needed - values.size)}"
    )


def _additions(axis: str, values: Array, count: int) -> str:
    """Values that would fill the axis."""
    if axis == "sparsity":
        wanted = [s for s in (0.0, 0.5, 0.75, 0.875, 0.9375) if not np.any(np.isclose(values, s))]
        picks = wanted[:count]
    else:
        step = values[-1] / values[-2] if values.size > 1 else 4.0 if axis == "nonzero_params" else 2.0
        picks = [float(values[-1] * step ** (i + 1)) for i in range(count)]
    return f"{axis} " + " and ".join(f"{value:g}" for value in picks)


def _wider(axis: str, values: Array) -> str:
    if axis == "sparsity":
        return f"runs at sparsity {1 - (1 - values[0]) / (2 * _WIDE[axis]):.4g} would help"
    return f"runs at {axis} {values[0] * _WIDE[axis]:.3g} or more would help"


def _confounded(runs: Runs, axes: set[str]) -> list[str]:
    """Pairs of axes that move together in every run, so that their effects cannot be told apart."""
    logs = {
        "sparsity": np.log1p(-runs.sparsity),
        "nonzero_params": np.log(runs.nonzero_params),
        "data": np.log(runs.data),
    }
    found = []
    names = [axis for axis in _AXES if axis in axes]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if _move_together(logs[first], logs[second]):
                found.append(
                    f"{first} and {second} move together in every run, so their effects cannot be told apart: "
                    f"add runs that vary {second} at one {first}"
                )
    return found


def _move_together(first: Array, second: Array) -> bool:
    """Whether one axis is a function of the other: level by level in a grid, by rank where values are continuous."""
    codes = [np.unique(_rounded(axis), return_inverse=True)[1] for axis in (first, second)]
    levels = [int(code.max()) + 1 for code in codes]
    pairs = np.unique(np.stack(codes), axis=1).shape[1]
    if max(levels) <= first.size // 2:
        return bool(pairs == max(levels))
    return bool(abs(np.corrcoef(codes[0], codes[1])[0, 1]) > 0.999)
