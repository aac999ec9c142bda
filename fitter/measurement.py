"""What sparse training really cost: multipliers for `measured` accounting from the times of finished runs.

The multiplier of a sparsity is the time per token of a run over that of a dense run with as many non-zero
parameters (paper, section 3.3, with seconds for FLOPs). Where no dense run has just that size, its time is read
between the nearest dense sizes, on a log-log line; beyond the dense sizes nothing is guessed. Times of one kind of
machine compare; those of a sweep that ran on several do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.accounting import Measured, measured
from fitter.errors import SettingError
from fitter.table import columns

Array = NDArray[np.float64]

NEEDED = ("sparsity", "nonzero_params", "data", "seconds")


@dataclass(frozen=True)
class MeasuredCosts:
    """Measured training cost by sparsity.

    Args:
        sparsity: [k] ascending, the first 0.
        multiplier: [k] time per token over that of a dense model with as many non-zero parameters: the median.
        runs: [k] runs behind each.
    """

    sparsity: tuple[float, ...]
    multiplier: tuple[float, ...]
    runs: tuple[int, ...]

    @property
    def accounting(self) -> Measured:
        """As the cost model of `Law.optimum`."""
        return measured(self.sparsity, self.multiplier)

    def document(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "sparsity": list(self.sparsity),
            "multiplier": list(self.multiplier),
            "runs": list(self.runs),
        }


def measured_costs(table: Any) -> MeasuredCosts:
    """Cost multipliers from a table.

    Args:
        table: anything table-like, with sparsity and multiplier, or with sparsity, nonzero_params, data and seconds
            (of training, on one kind of machine) of finished runs.

    Raises:
        SettingError: columns missing, values out of range, or no sparse run that a dense one compares with.
    """
    found = columns(table)
    if "multiplier" in found and "sparsity" in found:
        return _given(found)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise SettingError(
            f"a table of costs has the columns sparsity and multiplier, or {', '.join(NEEDED)}; it lacks "
            f"{', '.join(missing)}"
        )
    sparsity, size, data, seconds = (_positive(name, found[name]) for name in NEEDED)
    rate = np.log(seconds / data)
    dense = sparsity == 0
    sizes = np.unique(size[dense])
    known = np.array([np.median(rate[dense & (size == n)]) for n in sizes])
    within = (
        ~dense & (size >= sizes.min()) & (size <= sizes.max())
        if sizes.size
        else np.zeros(size.size, dtype=bool)
    )
    if not within.any():
        raise SettingError(
            "measured accounting needs the training time of a dense run and of a sparse one with as many non-zero "
            "parameters (or dense runs below and above it); these runs have none"
        )
    ratio = np.exp(rate[within] - np.interp(np.log(size[within]), np.log(sizes), known))
    levels = np.unique(sparsity[within])
    at = sparsity[within]
    return MeasuredCosts(
        sparsity=(0.0, *levels.tolist()),
        multiplier=(1.0, *(float(np.median(ratio[at == level])) for level in levels)),
        runs=(int(dense.sum()), *(int((at == level).sum()) for level in levels)),
    )


def of_runs(rows: Sequence[Mapping[str, Any]]) -> MeasuredCosts:
    """The same of a sweep's runs: mappings with `NEEDED`, of which those without `seconds` are left out."""
    timed = [row for row in rows if row.get("seconds")]
    if not timed:
        raise SettingError(
            "measured accounting needs training times, and no completed run of this sweep has one; runs that are "
            "imported have them where their table has a column 'seconds'"
        )
    return measured_costs([{name: row[name] for name in NEEDED} for row in timed])


def _given(found: Mapping[str, NDArray[Any]]) -> MeasuredCosts:
    sparsity, multiplier = (_positive(name, found[name]) for name in ("sparsity", "multiplier"))
    pairs = {0.0: 1.0} | dict(sorted(zip(sparsity.tolist(), multiplier.tolist(), strict=True)))
    ordered = dict(sorted(pairs.items()))
    measured(list(ordered), list(ordered.values()))  # raises where they are no multipliers
    return MeasuredCosts(tuple(ordered), tuple(ordered.values()), tuple(1 for _ in ordered))


def _positive(name: str, column: NDArray[Any]) -> Array:
    try:
        values = column.astype(float)
    except (ValueError, TypeError):
        raise SettingError(f"{name} in a table of costs is not a number in every row") from None
    low = values < 0 if name == "sparsity" else values <= 0
    if not np.isfinite(values).all() or low.any() or (name == "sparsity" and (values >= 1).any()):
        right = "in [0, 1)" if name == "sparsity" else "positive and finite"
        raise SettingError(f"{name} in a table of costs must be {right} in every row")
    return np.asarray(values)
