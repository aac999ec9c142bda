"""Where each sparsity is the best, over model size and compute."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from fitter.accounting import Accounting as HowPriced
from fitter.service import formats
from fitter.service.context import InContext, SweepName
from fitter.service.formats import Format
from fitter.service.laws import StoredLaw
from fitter.service.problems import unanswerable
from fitter.service.routes.optimum import pricing
from fitter.service.routes.questions import InAccounting, InGroup, InSparsity, Version, asked_law, numbers
from fitter.service.schemas import LARGEST_MODEL, Accounting, Contour, Contours

router = APIRouter(prefix="/v1/sweeps/{name}/law", tags=["law"])

#: Columns of the contours as CSV and Parquet: one row for each point of each line.
CONTOUR_COLUMNS = ("sparsity", "nonzero_params", "flops", "low", "high", "data")


MOST_CONTOURS = 32


@router.get(
    "/contours",
    operation_id="contours",
    summary="Where each sparsity is the best, over model size and compute",
    response_model=Contours,
    responses=formats.RESPONSES,
)
def contours(
    request: Request,
    context: InContext,
    name: SweepName,
    sparsity: Annotated[
        list[InSparsity] | None,
        Query(description="Sparsities to draw, repeated; 0, 0.5, 0.75, 0.875 by default."),
    ] = None,
    nonzero_low: Annotated[
        float | None,
        Query(description="Smallest N; a quarter of the smallest trained.", ge=1, le=LARGEST_MODEL),
    ] = None,
    nonzero_high: Annotated[
        float | None, Query(description="Largest N; 16 times the largest trained.", ge=1, le=LARGEST_MODEL)
    ] = None,
    points: Annotated[int, Query(description="Points on each line.", ge=2, le=400)] = 49,
    accounting: InAccounting = "dense",
    version: Version = None,
    group: InGroup = None,
    format: Annotated[Format | None, Query(description="Overrides the Accept header.")] = None,
) -> Contours | Response:
    """For each sparsity S the compute C(N) at which it is the best, with the dense compute-optimal line."""
    form = formats.wanted(request, format)
    stored = asked_law(context, name, version, group)
    wanted = tuple(sorted(set(sparsity or (0.0, 0.5, 0.75, 0.875))))
    if len(wanted) > MOST_CONTOURS:
        raise unanswerable(
            f"{len(wanted)} sparsities were asked for: at most {MOST_CONTOURS} make a readable map."
        )
    low, high = stored.trained("nonzero_params")
    smallest, largest = nonzero_low or low / 4, nonzero_high or high * 16
    if smallest >= largest:
        raise unanswerable(f"nonzero_low is {smallest:g}, which is not below nonzero_high, {largest:g}.")
    question = ("contours", wanted, smallest, largest, points, accounting)
    answer = stored.remember(
        question,
        lambda: _contours(
            stored, wanted, smallest, largest, points, accounting, pricing(context, stored, accounting)
        ),
    )
    if form is Format.json:
        return answer
    rows = [
        dict(zip(CONTOUR_COLUMNS, (line.sparsity, *values), strict=True))
        for line in answer.contours
        for values in zip(answer.nonzero_params, line.flops, line.low, line.high, line.data, strict=True)
    ]
    return formats.table(form, rows, CONTOUR_COLUMNS, f"{name}-contours")


def _contours(
    stored: StoredLaw,
    wanted: tuple[float, ...],
    low: float,
    high: float,
    points: int,
    accounting: Accounting,
    how: HowPriced,
) -> Contours:
    lines = stored.law.contours(wanted, np.geomspace(low, high, points), how)
    return Contours(
        nonzero_params=lines.nonzero_params.tolist(),
        contours=[
            Contour(
                sparsity=wanted[i],
                flops=numbers(lines.flops[i]),
                low=numbers(lines.low[i]),
                high=numbers(lines.high[i]),
                data=numbers(lines.data[i]),
            )
            for i in range(len(wanted))
        ],
        dense_flops=numbers(lines.dense_flops),
        accounting=accounting,
        level=lines.level,
        version=stored.version,
        group=stored.group,
    )
