"""The law of a sweep: the document, its versions, and the losses that it predicts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from fitter.service import cursors, queries
from fitter.service.context import InContext, SweepName, known_sweep
from fitter.service.laws import group_of
from fitter.service.problems import unanswerable
from fitter.service.routes.questions import (
    InData,
    InGroup,
    InParams,
    InSparsity,
    Version,
    asked_law,
    number,
    numbers,
)
from fitter.service.schemas import FitHistory, FitVersion, Interval, PredictionAnswer, Predictions, Questions

router = APIRouter(prefix="/v1/sweeps/{name}/law", tags=["law"])


@router.get(
    "",
    operation_id="get_law",
    summary="The law of a sweep",
    response_class=Response,
    responses={
        200: {
            "description": "Coefficients in raw units with intervals, diagnostics, gains and bootstrap draws: the "
            "document that `lacuna law NAME --json` prints.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        304: {"description": "The version named by `If-None-Match` is still the newest."},
    },
)
def get_law(
    request: Request, context: InContext, name: SweepName, version: Version = None, group: InGroup = None
) -> Response:
    """The newest version, or the one asked for. Send the answer's `ETag` back as `If-None-Match` to poll cheaply."""
    stored = asked_law(context, name, version, group)
    headers = {"ETag": stored.etag, "Cache-Control": "no-cache"}
    if _matches(request.headers.get("if-none-match"), stored.etag):
        return Response(status_code=304, headers=headers)
    return Response(stored.body, media_type="application/json", headers=headers)


def _matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names this tag (RFC 9110, 13.1.2: weak comparison)."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


@router.get("/history", operation_id="get_law_history", summary="All versions of a sweep's law, newest first")
def get_history(
    context: InContext,
    name: SweepName,
    group: InGroup = None,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before.", max_length=100)
    ] = None,
    limit: Annotated[int, Query(description="Versions on a page.", ge=1, le=500)] = 100,
) -> FitHistory:
    """Coefficients and intervals of each version with the runs it used; an empty list before the first fit.

    Those of all groups of runs, unless one is asked for.
    """
    before = cursors.decode("history", cursor)
    with context.engine.connect() as connection:
        sweep = known_sweep(connection, name)
        wanted = group_of(connection, sweep.id, group) if group else None
        rows = queries.fits_page(connection, sweep.id, group=wanted, before=before, limit=limit + 1)
    items = [
        FitVersion(
            version=row["version"],
            group=row["group"],
            form=row["form"],
            created_at=row["created_at"],
            runs=row["runs"],
            runs_digest=row["runs_digest"],
            coefficients=row["coefficients"],
            intervals={
                coefficient: Interval(**{key: item.get(key) for key in Interval.model_fields})
                for coefficient, item in row["intervals"].items()
            },
        )
        for row in rows[:limit]
    ]
    more = len(rows) > limit
    return FitHistory(items=items, next_cursor=cursors.encode("history", items[-1].version) if more else None)


@router.get("/predict", operation_id="predict", summary="Predicted loss of one model")
def predict(
    context: InContext,
    name: SweepName,
    sparsity: InSparsity,
    nonzero_params: InParams,
    data: InData,
    version: Version = None,
    group: InGroup = None,
) -> PredictionAnswer:
    """The loss that the law predicts, the interval of the law there, and the interval for one new run."""
    stored = asked_law(context, name, version, group)
    answer = stored.law.predict(sparsity, nonzero_params, data)
    gain = number(stored.law.gain_at(sparsity).value) if stored.document["gain"] else None
    return PredictionAnswer(
        sparsity=sparsity,
        nonzero_params=nonzero_params,
        data=data,
        loss=float(answer.loss),
        low=number(answer.low),
        high=number(answer.high),
        new_run_low=number(answer.new_run_low),
        new_run_high=number(answer.new_run_high),
        level=answer.level,
        gain=gain,
        version=stored.version,
        group=stored.group,
    )


@router.post("/predict", operation_id="predict_many", summary="Predicted loss of many models")
def predict_many(
    context: InContext, name: SweepName, questions: Questions, version: Version = None, group: InGroup = None
) -> Predictions:
    """As the single prediction, for up to 10,000 models at once; columns must be of one length."""
    lengths = {len(questions.sparsity), len(questions.nonzero_params), len(questions.data)}
    if len(lengths) != 1:
        raise unanswerable(
            f"sparsity, nonzero_params and data have {len(questions.sparsity)}, {len(questions.nonzero_params)} and "
            f"{len(questions.data)} values: they must be of one length."
        )
    stored = asked_law(context, name, version, group)
    asked = (questions.sparsity, questions.nonzero_params, questions.data)
    if not questions.intervals:
        unknown: list[float | None] = [None] * len(questions.sparsity)
        return Predictions(
            loss=stored.law.loss(*asked).tolist(),
            low=unknown,
            high=unknown,
            level=stored.law.level,
            version=stored.version,
            group=stored.group,
        )
    answer = stored.law.predict(*asked, new_run=False)
    return Predictions(
        loss=answer.loss.tolist(),
        low=numbers(answer.low),
        high=numbers(answer.high),
        level=answer.level,
        version=stored.version,
        group=stored.group,
    )
