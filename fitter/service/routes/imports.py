"""Importing finished runs from elsewhere, for people who train with their own code."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from fitter.imports import ImportedTable, import_table, law_settings
from fitter.service import tables
from fitter.service.context import Context, InContext, SweepName
from fitter.service.problems import Problem
from fitter.service.schemas import ImportedRuns
from ledger.errors import SweepExists

router = APIRouter(prefix="/v1/sweeps/{name}", tags=["runs"])


@router.post(
    "/runs",
    operation_id="import_runs",
    summary="Import finished runs from elsewhere",
    status_code=201,
    openapi_extra=tables.request_body(
        "A runs table with the columns sparsity, nonzero_params, data, loss and optionally family, pattern, method, "
        "seed, steps, unique_data, name, completed_at, seconds (of training); further columns are kept."
    ),
    responses={
        200: {"description": "Every run of the table was there already.", "model": ImportedRuns},
        409: {"description": "The sweep's law has other settings."},
    },
)
async def import_runs(
    request: Request,
    response: Response,
    context: InContext,
    name: SweepName,
    form: Annotated[str | None, Query(description="Law form of a new sweep.", max_length=60)] = None,
    residual: Annotated[
        Literal["log", "raw"] | None, Query(description="Residual of a new sweep's fits.")
    ] = None,
    huber_delta: Annotated[
        float | None,
        Query(description="Huber threshold of a new sweep's fits.", gt=0, le=1e6, allow_inf_nan=False),
    ] = None,
    level: Annotated[float | None, Query(description="Level of a new sweep's intervals.", gt=0, lt=1)] = None,
) -> ImportedRuns:
    """Store the runs in the sweep, which is made where there is none, and fit its law.

    All runs of the table or none: every problem is reported at once, rows named. The same table twice is imported once.
    A run of a cell that the sweep has with another loss is refused; give it a seed of its own.
    """
    ending = tables.ending(request.headers.get("content-type", "text/csv"))
    law = law_settings(form, residual, huber_delta, level)
    done = await tables.in_turn(_import, context, name, await request.body(), ending, law)
    if context.after_import is not None:
        context.after_import(name)
    response.status_code = 201 if done.added else 200
    links = {"page": f"/sweeps/{quote(name)}", "law": f"/v1/sweeps/{quote(name)}/law"}
    return ImportedRuns(
        name=done.sweep,
        created=done.created,
        added=done.added,
        unchanged=done.unchanged,
        law_version=done.law_version,
        missing=done.missing,
        links=links,
    )


def _import(
    context: Context, name: str, body: bytes, ending: str, law: dict[str, Any] | None
) -> ImportedTable:
    try:
        return import_table(context.engine, name, tables.parse(body, ending), law=law)
    except SweepExists as error:
        raise Problem(
            409, "sweep-conflict", "A sweep of this name has another content", str(error)
        ) from error
