"""Fit a table of the caller's own: a table in, a law out, nothing stored."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from fitter.errors import TableError
from fitter.service import tables
from fitter.table import check

router = APIRouter(prefix="/v1", tags=["fit"])

MOST_RUNS = 20_000


@router.post(
    "/fit",
    operation_id="fit_table",
    summary="Fit a law to a posted table",
    response_class=Response,
    openapi_extra=tables.request_body(
        "A runs table with the columns sparsity, nonzero_params, data, loss and optionally family, pattern, method, "
        "seed, steps:"
    ),
    responses={
        200: {
            "description": "The law: the document that `lacuna fit --json` prints.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def fit_table(
    request: Request,
    form: Annotated[str, Query(description="Name of the law form.", max_length=60)] = "sparsity",
    residual: Annotated[
        Literal["log", "raw"], Query(description="`log`: log L̂ − log L; `raw`: L̂ − L.")
    ] = "log",
    huber_delta: Annotated[
        float,
        Query(description="Huber threshold, in units of the residual.", gt=0, le=1e6, allow_inf_nan=False),
    ] = 1e-3,
    level: Annotated[float, Query(description="Level of the intervals.", gt=0, lt=1)] = 0.9,
    draws: Annotated[
        int, Query(description="Bootstrap refits for the intervals; 0 for none.", ge=0, le=2000)
    ] = 500,
) -> Response:
    """The same fit as `lacuna fit`. Every problem of a table is reported at once, rows named."""
    body = await request.body()
    ending = tables.ending(request.headers.get("content-type", "text/csv"))
    text = await tables.in_turn(_fit, body, ending, form, residual, huber_delta, level, draws)
    return Response(text, media_type="application/json")


def _fit(
    body: bytes,
    ending: str,
    form: str,
    residual: Literal["log", "raw"],
    huber_delta: float,
    level: float,
    draws: int,
) -> str:
    from fitter.fitting import fit

    table = tables.parse(body, ending)
    size = len(next(iter(table.values()), ()))
    if size > MOST_RUNS:
        raise TableError([f"the table has {size:,} rows: at most {MOST_RUNS:,} are fitted here"])
    law = fit(
        check(table),
        form=form,
        residual=residual,
        huber_delta=huber_delta,
        level=level,
        intervals=draws > 0,
        draws=max(draws, 1),
    )
    return law.to_json()
