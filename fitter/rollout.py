"""Roll-out: fit without the far end of an axis, predict it, and say how that went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.accounting import Accounting, cost_multiplier
from fitter.errors import NotIdentifiedError, SettingError
from fitter.fitting import fit
from fitter.law import Law, Prediction
from fitter.table import Runs, check

Array = NDArray[np.float64]

#: What can be held out: the largest N, the longest D, the sparsest S, or the most compute.
AXES = ("nonzero_params", "data", "sparsity", "flops")

# Compute has no levels: the most expensive fifth of the runs is held out.
_COMPUTE_SHARE = 0.2


@dataclass(frozen=True)
class RollOut:
    """How a law predicts runs that it has not seen.

    Args:
        axis: what was held out.
        law: fitted on the rest.
        runs: the k runs held out.
        prediction: for them, [k].
        log_error: [k] log predicted − log measured.
        log_rmse: root mean square of it.
        bias: mean of it; positive when the law expects too much loss.
        worst: largest of its absolute values.
        mean_hits: share of runs inside the interval of the mean.
        new_run_hits: share inside the interval of a new run; this is the one that `level` promises.
        distance: how far the held-out level lies beyond the fitted ones, as a factor (of 1 − S for sparsity).
        identified: whether the remaining runs identify the form by themselves.
    """

    axis: str
    law: Law
    runs: Runs
    prediction: Prediction
    log_error: Array
    log_rmse: float
    bias: float
    worst: float
    mean_hits: float
    new_run_hits: float
    distance: float
    identified: bool

    def document(self) -> dict[str, Any]:
        """JSON-ready summary, without the law."""
        return {
            "axis": self.axis,
            "runs_fitted": self.law.runs,
            "runs_held_out": len(self.runs),
            "log_rmse": self.log_rmse,
            "bias": self.bias,
            "worst": self.worst,
            "mean_hits": self.mean_hits,
            "new_run_hits": self.new_run_hits,
            "level": self.prediction.level,
            "distance": self.distance,
            "identified": self.identified,
        }


def coordinate(runs: Runs, axis: str, accounting: Accounting = "dense") -> Array:
    """[n] where runs lie on an axis, growing in the direction of extrapolation; 1 / (1 − S) for sparsity.

    Raises:
        SettingError: unknown axis.
    """
    if axis == "sparsity":
        return np.asarray(1.0 / (1.0 - runs.sparsity))
    if axis == "flops":
        return runs.flops(cost_multiplier(runs.sparsity, accounting))
    if axis in AXES:
        return np.asarray(getattr(runs, axis))
    raise SettingError(f"a roll-out holds out one of {', '.join(AXES)}, not {axis!r}")


def far_end(runs: Runs, axis: str, accounting: Accounting = "dense") -> NDArray[np.bool_]:
    """[n] which runs a roll-out holds out: the last level of the axis, or the most expensive fifth."""
    at = coordinate(runs, axis, accounting)
    if axis == "flops":
        return np.asarray(at > np.quantile(at, 1.0 - _COMPUTE_SHARE) * (1 + 1e-9))
    return np.asarray(at >= at.max() * (1 - 1e-9))


def roll_out(
    table: Any,
    axis: str = "nonzero_params",
    *,
    accounting: Accounting = "dense",
    fitter: Callable[..., Law] = fit,
    **settings: Any,
) -> RollOut:
    """Hold out the far end of `axis`, fit the rest, predict what was held out.

    Args:
        table: as for `fit`.
        axis: one of `AXES`.
        accounting: how compute is counted, for axis "flops".
        fitter: the fit function, `fitter.fit` unless another is under test.
        settings: as for `fit`.

    Raises:
        NotIdentifiedError: too few runs would remain to fit at all.
    """
    runs = check(table)
    held = far_end(runs, axis, accounting)
    if held.all() or not held.any():
        raise NotIdentifiedError(
            str(settings.get("form", "sparsity")), [f"{axis} has one level: there is nothing to hold out"]
        )
    law = fitter(runs.take(~held), **{"require_identified": False, "report": False, **settings})
    test = runs.take(held)
    prediction = law.predict(test.sparsity, test.nonzero_params, test.data, unique_data=test.unique_data)
    error = np.log(prediction.loss / test.loss)
    at = coordinate(runs, axis, accounting)
    return RollOut(
        axis=axis,
        law=law,
        runs=test,
        prediction=prediction,
        log_error=error,
        log_rmse=float(np.sqrt(np.mean(error**2))),
        bias=float(error.mean()),
        worst=float(np.abs(error).max()),
        mean_hits=_hits(test.loss, prediction.low, prediction.high),
        new_run_hits=_hits(test.loss, prediction.new_run_low, prediction.new_run_high),
        distance=float(at.max() / at[~held].max()),
        identified=bool(law.diagnostics["identifiability"]["identified"]),
    )


def _hits(measured: Array, low: Array, high: Array) -> float:
    return float(np.mean((low <= measured) & (measured <= high)))
