"""Which runs to do next."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from fitter.service import queries
from fitter.service.context import InContext, SweepName
from fitter.service.problems import unanswerable
from fitter.service.routes.optimum import pricing
from fitter.service.routes.questions import InAccounting, InGroup
from fitter.service.schemas import Suggestion, Suggestions

router = APIRouter(prefix="/v1/sweeps/{name}", tags=["law"])

COLUMNS = ("sparsity", "nonzero_params", "data", "loss")


@router.get("/suggestions", operation_id="suggestions", summary="Runs worth doing next")
def suggestions(
    context: InContext,
    name: SweepName,
    flops: Annotated[
        float | None,
        Query(
            description="Compute that may be spent, in FLOPs; four times the dearest run by default.",
            gt=0,
            le=1e36,
            allow_inf_nan=False,
        ),
    ] = None,
    limit: Annotated[int, Query(description="At most so many runs.", ge=1, le=50)] = 8,
    nonzero_params: Annotated[
        float | None,
        Query(description="Ask for the optimum at this N rather than the law as a whole.", ge=1, le=1e18),
    ] = None,
    budget: Annotated[
        float | None, Query(description="Training FLOPs C of that question.", ge=1, le=1e36)
    ] = None,
    accounting: InAccounting = "dense",
    group: InGroup = None,
) -> Suggestions:
    """Runs that tell the most per FLOP, in the order of choice, each given that those before it are done."""
    from fitter.suggestion import suggest

    if (nonzero_params is None) != (budget is None):
        raise unanswerable("nonzero_params and budget belong together: give both, or neither.")
    with context.engine.connect() as connection:
        stored = context.laws.get(connection, name, group=group)
        rows = queries.runs_behind(connection, name, stored.group)
    cells = [{**row["cell"], "loss": row["loss"]} for row in rows]
    table = {column: [cell.get(column) for cell in cells] for column in COLUMNS}
    dearest = max(6 * cell["nonzero_params"] * cell["data"] / (1 - cell["sparsity"]) for cell in cells)
    allowed = flops or 4 * dearest
    target: Literal["law", "optimum"] = "law" if budget is None else "optimum"
    question = ("suggestions", len(cells), allowed, limit, nonzero_params, budget, accounting)
    plan = stored.remember(
        question,
        lambda: suggest(
            table,
            flops=allowed,
            law=stored.law,
            limit=limit,
            target=target,
            nonzero_params=nonzero_params,
            budget=budget,
            accounting=pricing(context, stored, accounting),
        ),
    )
    items = [Suggestion(**vars(run)) for run in plan.runs]
    return Suggestions(items=items, target=target, deviation=plan.deviation, flops=allowed)
