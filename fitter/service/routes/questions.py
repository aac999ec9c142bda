"""What a question to a law consists of, and the law that it is put to."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from fastapi import Query

from fitter.service.context import Context
from fitter.service.laws import StoredLaw
from fitter.service.schemas import LARGEST_BUDGET, LARGEST_DATA, LARGEST_MODEL, Accounting

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

Version = Annotated[
    int | None, Query(description="Version of the law; the newest by default.", ge=1, le=2**31)
]
InSparsity = Annotated[
    float, Query(description="S: fraction of zero weights, in [0, 1).", ge=0, lt=1, examples=[0.75])
]
_PARAMS = Query(
    description="N: non-zero parameters.", ge=1, le=LARGEST_MODEL, examples=[5.3e6], allow_inf_nan=False
)
InParams = Annotated[float, _PARAMS]
InParamsOrNone = Annotated[float | None, _PARAMS]
InFlopsOrNone = Annotated[
    float | None,
    Query(
        description="C: training compute in FLOPs.",
        ge=1,
        le=LARGEST_BUDGET,
        examples=[1e18],
        allow_inf_nan=False,
    ),
]
InData = Annotated[
    float,
    Query(
        description="D: tokens (or images).", ge=1, le=LARGEST_DATA, examples=[1.6e10], allow_inf_nan=False
    ),
]
InAccounting = Annotated[
    Accounting,
    Query(
        description="What a zero weight costs in training: `dense` as much as any other, `sparse` nothing, `measured` "
        "what the times of the sweep's own runs say (`/costs`)."
    ),
]
InGroup = Annotated[
    str | None,
    Query(
        description="Which of the sweep's groups of runs (`groups` of the sweep); the first by default.",
        max_length=200,
        examples=["2:4"],
    ),
]


def asked_law(context: Context, name: str, version: int | None, group: str | None) -> StoredLaw:
    """The law of that sweep, version and group. Raises Problem (404)."""
    with context.reading.connect() as connection:
        return context.laws.get(connection, name, version, group)


def numbers(values: Array) -> list[float | None]:
    """`number` of each."""
    return [number(value) for value in values]


def number(value: object) -> float | None:
    """A float that JSON can carry: NaN (no interval without draws) becomes null."""
    found = float(np.asarray(value))
    return found if math.isfinite(found) else None
