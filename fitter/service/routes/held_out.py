"""How well a law predicts runs that it has not seen."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from sqlalchemy import RowMapping

from fitter.rollout import roll_out
from fitter.service import queries
from fitter.service.context import InContext, SweepName
from fitter.service.laws import StoredLaw
from fitter.service.routes.questions import InGroup, numbers
from fitter.service.schemas import HeldOut
from fitter.table import check

router = APIRouter(prefix="/v1/sweeps/{name}/law", tags=["law"])

HeldOutAxis = Literal["nonzero_params", "data", "sparsity", "flops"]


@router.get("/held-out", operation_id="held_out", summary="How well the law predicts runs it has not seen")
def held_out(
    context: InContext,
    name: SweepName,
    axis: Annotated[
        HeldOutAxis,
        Query(description="Whose far end is held out; `flops`: the most expensive fifth of the runs."),
    ] = "data",
    group: InGroup = None,
) -> HeldOut:
    """Fits the law's form without the far end of an axis and predicts the runs there: a roll-out."""
    with context.engine.connect() as connection:
        stored = context.laws.get(connection, name, group=group)
        done = queries.runs_behind(connection, name, stored.group)
    return stored.remember(("held-out", axis, len(done)), lambda: _held_out(stored, done, axis))


def _held_out(stored: StoredLaw, rows: list[RowMapping], axis: HeldOutAxis) -> HeldOut:
    columns = ("sparsity", "nonzero_params", "data")
    table = check(
        {column: [row["cell"][column] for row in rows] for column in columns}
        | {"loss": [row["loss"] for row in rows], "seed": [row["position"] for row in rows]}
    )
    settings = {
        key: stored.law.settings[key] for key in ("residual", "huber_delta") if key in stored.law.settings
    }
    found = roll_out(table, axis, form=stored.law.form, draws=100, **settings)
    return HeldOut(
        axis=axis,
        positions=[rows[number - 1]["position"] for number in found.runs.rows],
        loss=found.prediction.loss.tolist(),
        low=numbers(found.prediction.new_run_low),
        high=numbers(found.prediction.new_run_high),
        log_rmse=found.log_rmse,
        runs_fitted=found.law.runs,
        distance=found.distance,
        level=found.prediction.level,
    )
