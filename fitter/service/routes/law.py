"""The law of a sweep, and what it answers: predictions, the optimal sparsity, contours."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from fitter.accounting import Accounting as HowPriced
from fitter.measurement import MeasuredCosts, measured_costs, of_runs
from fitter.rollout import roll_out
from fitter.service import cursors, formats, queries
from fitter.service.context import Context, InContext, SweepName, known_sweep
from fitter.service.formats import Format
from fitter.service.laws import StoredLaw
from fitter.service.problems import Problem
from fitter.service.schemas import (
    LARGEST_BUDGET,
    LARGEST_DATA,
    LARGEST_MODEL,
    Accounting,
    Contour,
    Contours,
    Costs,
    FitHistory,
    FitVersion,
    HeldOut,
    Interval,
    Optima,
    OptimumAnswer,
    OptimumQuestions,
    PredictionAnswer,
    Predictions,
    Questions,
)
from fitter.table import check
from ledger import runs
from ledger.models import SegmentState

router = APIRouter(prefix="/v1/sweeps/{name}/law", tags=["law"])
costs_router = APIRouter(prefix="/v1/sweeps/{name}", tags=["law"])

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

HeldOutAxis = Literal["nonzero_params", "data", "sparsity", "flops"]

Version = Annotated[
    int | None, Query(description="Version of the law; the newest by default.", ge=1, le=2**31)
]
InSparsity = Annotated[
    float, Query(description="S: fraction of zero weights, in [0, 1).", ge=0, lt=1, examples=[0.75])
]
InParams = Annotated[
    float,
    Query(
        description="N: non-zero parameters.", ge=1, le=LARGEST_MODEL, examples=[5.3e6], allow_inf_nan=False
    ),
]
InData = Annotated[
    float,
    Query(
        description="D: tokens (or images).", ge=1, le=LARGEST_DATA, examples=[1.6e10], allow_inf_nan=False
    ),
]
InFlops = Annotated[
    float,
    Query(
        description="C: training compute in FLOPs.",
        ge=1,
        le=LARGEST_BUDGET,
        examples=[1e18],
        allow_inf_nan=False,
    ),
]
InAccounting = Annotated[
    Accounting,
    Query(
        description="What a zero weight costs in training: `dense` as much as any other, `sparse` nothing, `measured` "
        "what the times of the sweep's own runs say (`/costs`)."
    ),
]


def _law(context: Context, name: str, version: int | None) -> StoredLaw:
    with context.reading.connect() as connection:
        return context.laws.get(connection, name, version)


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
def get_law(request: Request, context: InContext, name: SweepName, version: Version = None) -> Response:
    """The newest version, or the one asked for. Send the answer's `ETag` back as `If-None-Match` to poll cheaply."""
    stored = _law(context, name, version)
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
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before.", max_length=100)
    ] = None,
    limit: Annotated[int, Query(description="Versions on a page.", ge=1, le=500)] = 100,
) -> FitHistory:
    """Coefficients and intervals of each version with the runs it used; an empty list before the first fit."""
    before = cursors.decode("history", cursor)
    with context.engine.connect() as connection:
        sweep = known_sweep(connection, name)
        rows = queries.fits_page(connection, sweep.id, before=before, limit=limit + 1)
    items = [
        FitVersion(
            version=row["version"],
            form=row["form"],
            created_at=row["created_at"],
            runs=row["runs"],
            runs_digest=row["runs_digest"],
            coefficients=row["document"]["coefficients"],
            intervals={
                coefficient: Interval(**{key: item.get(key) for key in Interval.model_fields})
                for coefficient, item in row["document"]["intervals"].items()
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
) -> PredictionAnswer:
    """The loss that the law predicts, the interval of the law there, and the interval for one new run."""
    stored = _law(context, name, version)
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
    )


@router.post("/predict", operation_id="predict_many", summary="Predicted loss of many models")
def predict_many(
    context: InContext, name: SweepName, questions: Questions, version: Version = None
) -> Predictions:
    """As the single prediction, for up to 10,000 models at once; columns must be of one length."""
    lengths = {len(questions.sparsity), len(questions.nonzero_params), len(questions.data)}
    if len(lengths) != 1:
        raise Problem(
            422,
            "invalid-question",
            "The law cannot answer this question",
            f"sparsity, nonzero_params and data have {len(questions.sparsity)}, {len(questions.nonzero_params)} and "
            f"{len(questions.data)} values: they must be of one length.",
        )
    stored = _law(context, name, version)
    answer = stored.law.predict(questions.sparsity, questions.nonzero_params, questions.data)
    return Predictions(
        loss=answer.loss.tolist(),
        low=numbers(answer.low),
        high=numbers(answer.high),
        level=answer.level,
        version=stored.version,
    )


@router.get("/optimum", operation_id="optimum", summary="How sparse a model should be")
def optimum(
    context: InContext,
    name: SweepName,
    nonzero_params: InParams,
    flops: InFlops,
    accounting: InAccounting = "dense",
    version: Version = None,
) -> OptimumAnswer:
    """The sparsity that minimises the predicted loss of a model with N non-zero parameters and C training FLOPs.

    A sparser model is larger while it trains, so at the same C it sees less data; the optimum balances both.
    """
    stored = _law(context, name, version)
    return _optima(stored, [nonzero_params], [flops], accounting, pricing(context, stored, accounting))[0]


@router.post("/optimum", operation_id="optimum_many", summary="How sparse many models should be")
def optimum_many(
    context: InContext, name: SweepName, questions: OptimumQuestions, version: Version = None
) -> Optima:
    """As the single question, for up to 500 models at once; columns must be of one length."""
    if len(questions.nonzero_params) != len(questions.flops):
        raise Problem(
            422,
            "invalid-question",
            "The law cannot answer this question",
            f"nonzero_params and flops have {len(questions.nonzero_params)} and {len(questions.flops)} values: they "
            "must be of one length.",
        )
    stored = _law(context, name, version)
    if questions.measured is not None:
        if questions.accounting != "measured":
            raise Problem(
                422,
                "invalid-question",
                "The law cannot answer this question",
                f"measured costs were sent with accounting '{questions.accounting}': send accounting 'measured'.",
            )
        how: HowPriced = measured_costs(questions.measured.model_dump()).accounting
    else:
        how = pricing(context, stored, questions.accounting)
    return Optima(items=_optima(stored, questions.nonzero_params, questions.flops, questions.accounting, how))


@costs_router.get("/costs", operation_id="get_costs", summary="What sparse training really cost")
def get_costs(context: InContext, name: SweepName) -> Costs:
    """Multipliers for `measured` accounting: time per token at each sparsity, over that of dense runs of equal N."""
    with Session(context.engine) as session:
        known_sweep(session.connection(), name)
        return Costs(**of_runs(runs.training_seconds(session, name)).document())


def pricing(context: Context, stored: StoredLaw, accounting: Accounting) -> HowPriced:
    """How the library counts cost. Raises SettingError where the sweep's runs have no times."""
    if accounting != "measured":
        return accounting

    def ask() -> MeasuredCosts:
        with Session(context.engine) as session:
            return of_runs(runs.training_seconds(session, stored.sweep))

    return stored.remember(("costs",), ask).accounting


def _optima(
    stored: StoredLaw,
    nonzero_params: list[float],
    flops: list[float],
    accounting: Accounting,
    how: HowPriced,
) -> list[OptimumAnswer]:
    best = stored.law.optimum(nonzero_params, flops, how)
    return [
        OptimumAnswer(
            nonzero_params=nonzero_params[i],
            flops=flops[i],
            accounting=accounting,
            sparsity=float(best.sparsity[i]),
            low=number(best.low[i]),
            high=number(best.high[i]),
            level=best.level,
            data=float(best.data[i]),
            loss=float(best.loss[i]),
            loss_low=number(best.loss_low[i]),
            loss_high=number(best.loss_high[i]),
            dense_loss=float(best.dense_loss[i]),
            multiplier=float(best.multiplier[i]),
            extrapolates=bool(best.extrapolates[i]),
            version=stored.version,
        )
        for i in range(len(flops))
    ]


@router.get("/held-out", operation_id="held_out", summary="How well the law predicts runs it has not seen")
def held_out(
    context: InContext,
    name: SweepName,
    axis: Annotated[
        HeldOutAxis,
        Query(description="Whose far end is held out; `flops`: the most expensive fifth of the runs."),
    ] = "data",
) -> HeldOut:
    """Fits the law's form without the far end of an axis and predicts the runs there: a roll-out."""
    with Session(context.engine) as session:
        stored = context.laws.get(session.connection(), name)
        sweep = known_sweep(session.connection(), name)
        rows = queries.runs_page(session.connection(), sweep.id, state=SegmentState.completed)
    done = [row for row in rows if row["loss"] is not None]
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


#: Columns of the contours as CSV and Parquet: one row for each point of each line.
CONTOUR_COLUMNS = ("sparsity", "nonzero_params", "flops", "low", "high", "data")


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
    format: Annotated[Format | None, Query(description="Overrides the Accept header.")] = None,
) -> Contours | Response:
    """For each sparsity S the compute C(N) at which it is the best, with the dense compute-optimal line."""
    form = formats.wanted(request, format)
    stored = _law(context, name, version)
    wanted = tuple(sorted(set(sparsity or (0.0, 0.5, 0.75, 0.875))))
    if len(wanted) > MOST_CONTOURS:
        raise Problem(
            422,
            "invalid-question",
            "The law cannot answer this question",
            f"{len(wanted)} sparsities were asked for: at most {MOST_CONTOURS} make a readable map.",
        )
    low, high = stored.trained("nonzero_params")
    smallest, largest = nonzero_low or low / 4, nonzero_high or high * 16
    if smallest >= largest:
        raise Problem(
            422,
            "invalid-question",
            "The law cannot answer this question",
            f"nonzero_low is {smallest:g}, which is not below nonzero_high, {largest:g}.",
        )
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


MOST_CONTOURS = 32


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
                flops=lines.flops[i].tolist(),
                low=numbers(lines.low[i]),
                high=numbers(lines.high[i]),
                data=lines.data[i].tolist(),
            )
            for i in range(len(wanted))
        ],
        dense_flops=numbers(lines.dense_flops),
        accounting=accounting,
        level=lines.level,
        version=stored.version,
    )


def numbers(values: Array) -> list[float | None]:
    """`number` of each."""
    return [number(value) for value in values]


def number(value: object) -> float | None:
    """A float that JSON can carry: NaN (no interval without draws) becomes null."""
    found = float(np.asarray(value))
    return found if math.isfinite(found) else None
