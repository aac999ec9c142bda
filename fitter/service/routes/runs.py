"""Runs of a sweep: JSON by pages, CSV and Parquet whole."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from fitter.mlflow_pages import run_page
from fitter.service import cursors, formats, queries
from fitter.service.context import Context, InContext, SweepName, known_sweep
from fitter.service.formats import Format
from fitter.service.schemas import Run, RunList
from ledger.models import SegmentState

router = APIRouter(prefix="/v1/sweeps/{name}", tags=["runs"])

CELL = ("sparsity", "nonzero_params", "data", "steps", "family", "pattern", "method", "seed")
COLUMNS = (
    *("sparsity", "nonzero_params", "data", "loss", "family", "pattern", "method", "seed", "steps"),
    *("position", "name", "state", "completed_at", "reason"),
)
"""Columns of CSV and Parquet: those of a runs table first, so that the file can be fitted as it is."""


@router.get(
    "/runs",
    operation_id="list_runs",
    summary="Runs of a sweep, in grid order",
    response_model=RunList,
    responses=formats.RESPONSES,
)
def list_runs(
    request: Request,
    context: InContext,
    name: SweepName,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before.", max_length=100)
    ] = None,
    limit: Annotated[
        int | None,
        Query(description="Runs on a page: 1,000 by default in JSON, all in CSV and Parquet.", ge=1, le=5000),
    ] = None,
    state: Annotated[SegmentState | None, Query(description="Only runs in this state.")] = None,
    cell: Annotated[bool, Query(description="With every value of the runs' cells (JSON only).")] = False,
    format: Annotated[Format | None, Query(description="Overrides the Accept header.")] = None,
) -> Response:
    """Each run with its cell of the grid, its loss where it has one, and why it failed where it did.

    CSV and Parquet have the columns of a runs table, so `lacuna fit` takes them as they are (drop runs without a loss
    by `?state=completed`).
    """
    form = formats.wanted(request, format)
    after = cursors.decode("runs", cursor)
    size = limit or (1000 if form is Format.json else None)
    with context.engine.connect() as connection:
        sweep = known_sweep(connection, name)
        rows = queries.runs_page(
            connection, sweep.id, after=after, limit=None if size is None else size + 1, state=state
        )
        page = rows if size is None else rows[:size]
        items = describe(context, sweep, page, cell=cell)
        _add_steps(connection, sweep, page, items)
    if form is not Format.json:
        return formats.table(form, [item.model_dump() for item in items], COLUMNS, f"{sweep.name}-runs")
    more = len(rows) > len(page)
    answer = RunList(items=items, next_cursor=cursors.encode("runs", page[-1]["position"]) if more else None)
    # Serialised here: FastAPI would validate 1,000 runs a second time.
    return Response(answer.model_dump_json(), media_type="application/json", headers={"Vary": "Accept"})


def _add_steps(connection: Connection, sweep: queries.SweepRow, rows: list[Any], items: list[Run]) -> None:
    if any(row["state"] is SegmentState.running for row in rows):
        steps = queries.steps_of_running(connection, sweep.id)
        for item in items:
            item.step = steps.get(item.position)


def describe(context: Context, sweep: queries.SweepRow, rows: list[Any], *, cell: bool = False) -> list[Run]:
    """The runs of these rows."""
    root, experiment = context.links.mlflow, sweep.tracking_id
    return [
        Run.model_construct(  # from the ledger, whose columns are typed
            position=row["position"],
            name=row["name"],
            state=row["state"],
            loss=row["loss"],
            completed_at=row["completed_at"],
            tip_key=row["tip_key"],
            reason=row["reason"],
            mlflow=run_page(root, experiment, row["tracking_id"])
            if root and experiment and row["tracking_id"]
            else None,
            step=None,
            cell=row["cell"] if cell else None,
            **{field: row["cell"].get(field) for field in CELL},
        )
        for row in rows
    ]
