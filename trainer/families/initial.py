"""How a weight begins, as data: families say it by name, models carry it out."""

from __future__ import annotations

from typing import NamedTuple


class Initial(NamedTuple):
    """Normal values of this mean and standard deviation; a deviation of 0 fills."""

    mean: float
    deviation: float


ONES = Initial(1.0, 0.0)
ZEROS = Initial(0.0, 0.0)


def normal(deviation: float) -> Initial:
    """Zero mean."""
    return Initial(0.0, float(deviation))
