"""Weights of runs from the scatter of seeds."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fitter.errors import SettingError
from fitter.table import Runs

Array = NDArray[np.float64]
Weighting = Literal["equal", "seed-variance"]

# A variance from two or three seeds is itself little known. It is shrunk towards the pooled one with this
# many degrees of freedom of prior weight, as in moderated statistics (Smyth 2004).
_PRIOR_FREEDOM = 4.0


def run_weights(runs: Runs, weighting: Weighting) -> Array:
    """Weights [n] with mean one.

    "equal": ones. "seed-variance": one over the variance of log loss among the seeds of a cell, shrunk
    towards the variance pooled over cells; cells with one seed get the pooled variance.

    Raises:
        SettingError: unknown weighting, or "seed-variance" where no cell has two seeds.
    """
    if weighting == "equal":
        return np.ones(len(runs))
    if weighting != "seed-variance":
        raise SettingError(f"weighting must be 'equal' or 'seed-variance', got {weighting!r}")
    cell = runs.cells()
    log = np.log(runs.loss)
    count = np.bincount(cell).astype(float)
    mean = np.bincount(cell, log) / count
    squares = np.bincount(cell, (log - mean[cell]) ** 2)
    freedom = count - 1
    if freedom.sum() < 1 or squares.sum() == 0:
        raise SettingError("weighting 'seed-variance' needs cells that were run with two or more seeds")
    pooled = squares.sum() / freedom.sum()
    variance = (squares + _PRIOR_FREEDOM * pooled) / (freedom + _PRIOR_FREEDOM)
    weight = 1.0 / variance[cell]
    return np.asarray(weight / weight.mean())
