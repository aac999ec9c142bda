"""What the service answers, typed, with units in the descriptions: the OpenAPI document is made from these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ledger.models import SegmentState, SweepState

Sparsity = Annotated[
    float, Field(description="Fraction of weights that are zero, in [0, 1).", examples=[0.75])
]
NonzeroParams = Annotated[
    float, Field(description="N, the number of non-zero parameters after pruning.", examples=[5.3e6])
]
Data = Annotated[
    float, Field(description="D, data seen in training, in tokens (or images).", examples=[1.6e10])
]
Loss = Annotated[
    float, Field(description="Validation loss, in nats per token (or per image).", examples=[2.71])
]
#: Beyond these no model was ever meant; they keep every answer finite.
LARGEST_MODEL, LARGEST_BUDGET, LARGEST_DATA = 1e18, 1e36, 1e24
SparsityQuestion = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
ParamsQuestion = Annotated[float, Field(ge=1, le=LARGEST_MODEL, allow_inf_nan=False)]
DataQuestion = Annotated[float, Field(ge=1, le=LARGEST_DATA, allow_inf_nan=False)]
FlopsQuestion = Annotated[float, Field(ge=1, le=LARGEST_BUDGET, allow_inf_nan=False)]
MOST_QUESTIONS = 10_000
MOST_OPTIMA = 500
Flops = Annotated[float, Field(description="Training compute, in FLOPs.", examples=[1e18])]


Accounting = Literal["dense", "sparse", "measured"]


class Answer(BaseModel):
    """Base of all answers: unknown members are a defect of the service."""

    model_config = ConfigDict(extra="forbid")


class Interval(Answer):
    """A central interval with its level; both ends are null where the runs cannot tell."""

    low: float | None
    high: float | None
    level: float = Field(description="Coverage that the interval is built for, such as 0.9.")
    identified: bool | None = Field(None, description="False where the runs do not bound the coefficient.")


class RunCounts(Answer):
    """How many runs of a sweep stand where."""

    total: int
    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    diverged: int = 0


class SegmentCounts(Answer):
    """The segments of a sweep's forest, and the optimiser steps in them."""

    total: int
    completed: int
    running: int
    shared: int = Field(description="Segments that more than one run of the sweep uses.")
    reused: int = Field(description="Segments that were done before the sweep was submitted.")
    steps: int = Field(description="Optimiser steps of all segments, each counted once.")
    steps_done: int
    steps_alone: int = Field(description="Steps if every run were trained by itself.")


class SweepSummary(Answer):
    """One line of the list of sweeps."""

    name: str
    state: SweepState = Field(
        description="What is wanted of the sweep; `completed` once every run has ended."
    )
    created_at: datetime
    finished_at: datetime | None = None
    runs: RunCounts
    best_loss: float | None = Field(None, description="Lowest validation loss of a completed run, in nats.")
    law_version: int | None = Field(
        None, description="Newest version of the sweep's law; null before the first."
    )


class SweepList(Answer):
    """A page of sweeps, newest first."""

    items: list[SweepSummary]
    next_cursor: str | None = Field(None, description="Pass as `cursor` for the next page; null on the last.")


class Working(Answer):
    """A segment that is being trained now."""

    segment_key: str = Field(description="SHA-256 that names the state after the segment.")
    worker: str
    step: int = Field(description="Steps done, as of the last heartbeat, counted from the start of the run.")
    start_step: int
    end_step: int
    loss: float | None = Field(None, description="Training loss as of the last heartbeat, in nats.")
    heartbeat_age: float = Field(description="Seconds since the last heartbeat.")
    runs: int = Field(description="Runs of this sweep that wait on this segment.")


class Progress(Answer):
    """How far a sweep is, and when it will be done."""

    state: SweepState
    health: Literal["done", "running", "waiting", "paused", "cancelled", "attention"] = Field(
        description="One word for people: `attention` where runs failed or diverged, `waiting` where nothing is "
        "being trained although runs are left."
    )
    runs: RunCounts
    segments: SegmentCounts
    working: list[Working]
    steps_per_second: float | None = Field(
        None, description="Training steps a second, summed over workers, over the running attempts."
    )
    seconds_left: float | None = Field(
        None,
        description="Estimated seconds until the last run ends, from the measured speed at each model size and the "
        "workers busy now; null while nothing was measured.",
    )
    best_loss: float | None = Field(None, description="Lowest validation loss of a completed run, in nats.")
    best_run: str | None = Field(None, description="Name of the run with that loss.")
    law_version: int | None = None


class Sweep(SweepSummary):
    """One sweep, with what was submitted and how far it is."""

    spec: dict[str, Any] = Field(description="The spec with every default written out.")
    spec_text: str = Field(description="The YAML as it was submitted.")
    plan: dict[str, Any] = Field(description="What `lacuna plan --json` printed at submission.")
    progress: Progress
    links: dict[str, str] = Field(description="Where else to look, such as the MLflow experiment.")


class Run(Answer):
    """One run: a cell of the sweep's grid."""

    position: int = Field(description="Order in the grid, from 0.")
    name: str
    state: SegmentState
    sparsity: float | None = Field(None, description="Fraction of weights that are zero, in [0, 1).")
    nonzero_params: float | None = Field(None, description="N, number of non-zero parameters.")
    data: float | None = Field(None, description="D, data seen in training, in tokens (or images).")
    steps: int | None = Field(None, description="Training steps.")
    loss: float | None = Field(None, description="Validation loss at the end, in nats.")
    family: str | None = None
    pattern: str | None = None
    method: str | None = None
    seed: int | None = None
    completed_at: datetime | None = None
    reason: str | None = Field(None, description="Why the run failed or diverged: its last attempt's words.")
    tip_key: str | None = Field(
        None, description="Key of the run's last segment; null for a run that was imported."
    )
    step: int | None = Field(None, description="Steps done so far, where the run is being trained.")
    cell: dict[str, Any] | None = Field(
        None, description="Every value of the run's cell; only with `?cell=true`."
    )
    mlflow: str | None = Field(None, description="Address of the run in the MLflow UI.")


class RunList(Answer):
    """A page of runs in grid order."""

    items: list[Run]
    next_cursor: str | None = Field(None, description="Pass as `cursor` for the next page; null on the last.")


class ForestSegment(Answer):
    """One segment of the forest: a stretch of training that one or more runs share."""

    key: str
    parent_key: str | None
    start_step: int
    end_step: int
    state: SegmentState
    runs: list[int] = Field(description="Positions of the runs whose path goes through this segment.")
    flops: float = Field(description="Compute of this stretch, in FLOPs (dense accounting).")
    step: int | None = Field(None, description="Steps done so far, where it is being trained.")
    attempts: int = Field(0, description="Attempts made so far.")
    reason: str | None = Field(None, description="Why the last attempt ended, where it did not complete.")


class Forest(Answer):
    """The segment forest of a sweep."""

    segments: list[ForestSegment]


class FitVersion(Answer):
    """One version of a sweep's law, in short."""

    version: int
    form: str
    created_at: datetime
    runs: int = Field(description="Runs that the fit used.")
    runs_digest: str = Field(description="SHA-256 of the runs that the fit used.")
    coefficients: dict[str, float] = Field(description="In raw units; see `/law` for the formula.")
    intervals: dict[str, Interval] = Field(description="Interval of each coefficient.")


class FitHistory(Answer):
    """All versions of a sweep's law, newest first."""

    items: list[FitVersion]
    next_cursor: str | None = Field(None, description="Pass as `cursor` for the next page; null on the last.")


class PredictionAnswer(Answer):
    """What the law says about one model."""

    sparsity: Sparsity
    nonzero_params: NonzeroParams
    data: Data
    loss: Loss
    low: float | None = Field(description="Lower end of the interval of the law at this point, in nats.")
    high: float | None = Field(description="Upper end of the interval of the law at this point, in nats.")
    new_run_low: float | None = Field(
        description="Lower end for the loss of one new run: the law's uncertainty and the runs' scatter."
    )
    new_run_high: float | None = Field(description="Upper end for the loss of one new run.")
    level: float = Field(description="Level of both intervals, such as 0.9.")
    gain: float | None = Field(
        None, description="A dense model needs this many times N to match, at equal data."
    )
    version: int = Field(description="Version of the law that answered.")


class Questions(BaseModel):
    """Models to predict, as columns of one length."""

    model_config = ConfigDict(extra="forbid")

    sparsity: list[SparsityQuestion] = Field(
        description="[n] fraction of zero weights, in [0, 1).", min_length=1, max_length=MOST_QUESTIONS
    )
    nonzero_params: list[ParamsQuestion] = Field(
        description="[n] N, non-zero parameters.", min_length=1, max_length=MOST_QUESTIONS
    )
    data: list[DataQuestion] = Field(
        description="[n] D, tokens (or images).", min_length=1, max_length=MOST_QUESTIONS
    )


class Predictions(Answer):
    """What the law says about many models, as columns."""

    loss: list[float] = Field(description="[n] predicted loss, in nats.")
    low: list[float | None] = Field(description="[n] lower end of the interval of the law.")
    high: list[float | None] = Field(description="[n] upper end of the interval of the law.")
    level: float = Field(description="Level of the intervals, such as 0.9.")
    version: int = Field(description="Version of the law that answered.")


class OptimumAnswer(Answer):
    """How sparse a model of N non-zero parameters should be, trained with C FLOPs."""

    nonzero_params: NonzeroParams
    flops: Flops
    accounting: Accounting
    sparsity: float = Field(description="The sparsity with the lowest predicted loss, in [0, 1).")
    low: float | None = Field(description="Lower end of the interval of the optimal sparsity.")
    high: float | None = Field(description="Upper end of the interval of the optimal sparsity.")
    level: float = Field(description="Level of the intervals, such as 0.9.")
    data: float = Field(description="Data that C FLOPs allow at that sparsity, in tokens (or images).")
    loss: float = Field(description="Predicted loss at the optimum, in nats.")
    loss_low: float | None = Field(description="Lower end of the interval of that loss.")
    loss_high: float | None = Field(description="Upper end of the interval of that loss.")
    dense_loss: float = Field(description="Predicted loss of the dense model for the same N and C, in nats.")
    multiplier: float = Field(
        description="Training cost per token relative to a dense model of N parameters."
    )
    extrapolates: bool = Field(
        description="Whether the answer lies outside the sizes, lengths or sparsities trained."
    )
    version: int = Field(description="Version of the law that answered.")


class MeasuredTable(BaseModel):
    """Training cost by sparsity, as measured elsewhere; columns of one length."""

    model_config = ConfigDict(extra="forbid")

    sparsity: list[SparsityQuestion] = Field(
        description="[k] fraction of zero weights, in [0, 1).", min_length=1, max_length=200
    )
    multiplier: list[Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]] = Field(
        description="[k] time per token over that of a dense model with as many non-zero parameters.",
        min_length=1,
        max_length=200,
    )


class Costs(Answer):
    """Measured training cost by sparsity, from the times of a sweep's runs."""

    sparsity: list[float] = Field(description="[k] fraction of zero weights, ascending; the first is 0.")
    multiplier: list[float] = Field(
        description="[k] time per token over that of a dense model with as many non-zero parameters: the median."
    )
    runs: list[int] = Field(description="[k] runs behind each.")


class OptimumQuestions(BaseModel):
    """Models to ask the optimal sparsity of, as columns of one length."""

    model_config = ConfigDict(extra="forbid")

    nonzero_params: list[ParamsQuestion] = Field(
        description="[n] N, non-zero parameters.", min_length=1, max_length=MOST_OPTIMA
    )
    flops: list[FlopsQuestion] = Field(
        description="[n] C, training compute in FLOPs.", min_length=1, max_length=MOST_OPTIMA
    )
    accounting: Accounting = "dense"
    measured: MeasuredTable | None = Field(
        None,
        description="Costs for `measured` accounting; those of the sweep's own runs where it is left out.",
    )


class Optima(Answer):
    """The optimal sparsity of many models."""

    items: list[OptimumAnswer] = Field(description="[n] in the order of the questions.")


class HeldOut(Answer):
    """How a law that has not seen the far end of an axis predicts it."""

    axis: Literal["nonzero_params", "data", "sparsity", "flops"] = Field(description="What was held out.")
    positions: list[int] = Field(description="[k] positions of the runs held out.")
    loss: list[float] = Field(description="[k] what the law that was fitted without them predicts, in nats.")
    low: list[float | None] = Field(description="[k] lower end of its interval for one new run.")
    high: list[float | None] = Field(description="[k] upper end of its interval for one new run.")
    log_rmse: float = Field(description="Root mean square of log predicted − log measured.")
    runs_fitted: int = Field(description="Runs that the law was fitted to.")
    distance: float = Field(
        description="How far the held-out level lies beyond the fitted ones, as a factor (of 1 − S for sparsity)."
    )
    level: float = Field(description="Level of the intervals, such as 0.9.")


class Contour(Answer):
    """The line in the (N, C) plane along which one sparsity is the best."""

    sparsity: Sparsity
    flops: list[float] = Field(description="[n] training compute C at which it is the best, in FLOPs.")
    low: list[float | None] = Field(description="[n] lower end of the interval of C.")
    high: list[float | None] = Field(description="[n] upper end of the interval of C.")
    data: list[float] = Field(description="[n] data seen there, in tokens (or images).")


class Contours(Answer):
    """Where each sparsity is the best, over model size and training compute."""

    nonzero_params: list[float] = Field(description="[n] model sizes N, in non-zero parameters, ascending.")
    contours: list[Contour] = Field(
        description="A line for each sparsity; at that of 0 sparsity starts to pay."
    )
    dense_flops: list[float | None] = Field(
        description="[n] compute at which N is the best size of a dense model (the Chinchilla line)."
    )
    accounting: Accounting
    level: float = Field(description="Level of the intervals, such as 0.9.")
    version: int = Field(description="Version of the law that answered.")


class Suggestion(Answer):
    """A run worth doing next."""

    sparsity: Sparsity
    nonzero_params: NonzeroParams
    data: Data
    flops: float = Field(description="What the run costs, in FLOPs.")
    deviation: float = Field(
        description="Standard deviation of what is asked once this run and all before it are done: of the log "
        "loss, or of the optimal sparsity."
    )
    reduction: float = Field(description="Share of the variance of what is asked that this run takes away.")


class Suggestions(Answer):
    """Runs worth doing next, in the order of choice."""

    items: list[Suggestion]
    target: Literal["law", "optimum"] = Field(description="What the runs shall tell more about.")
    deviation: float = Field(description="Standard deviation of what is asked, before any of them.")
    flops: float = Field(description="Compute that was allowed, in FLOPs.")


class Submitted(Answer):
    """What became of a submitted spec."""

    name: str
    created: bool = Field(description="False where a sweep of this name was there already.")
    outcome: Literal["created", "extended", "unchanged"] = Field(
        description="`extended`: the sweep was there and its grid grew."
    )
    runs_added: int = Field(description="Runs that the sweep did not have before.")
    plan: dict[str, Any]
    links: dict[str, str]


class Changed(Answer):
    """The state of a sweep after pause, resume or cancel."""

    name: str
    state: SweepState


class ImportedRuns(Answer):
    """What became of a table of finished runs."""

    name: str
    created: bool = Field(description="Whether the sweep is new.")
    added: int = Field(description="Runs that the sweep did not have before.")
    unchanged: int = Field(description="Rows that the sweep had already, with the same loss.")
    law_version: int | None = Field(None, description="Newest version of the sweep's law.")
    missing: list[str] = Field(
        default_factory=list, description="What the runs lack for a law, one sentence each."
    )
    links: dict[str, str]


class Retried(Answer):
    """What became of a sweep's failed runs."""

    name: str
    runs: int = Field(description="Runs that failed and wait again now.")


class FailedAttempt(Answer):
    """An attempt at a segment that did not complete."""

    attempt: int
    segment: str = Field(description="Key of the segment.")
    state: str = Field(description="`failed`, `diverged`, `lost` or `stopped`.")
    kind: str | None = Field(None, description="What ended it, such as `memory` or `preempted`.")
    worker: str
    step: int = Field(description="Steps done, counted from the start of the run.")
    started_at: datetime
    ended_at: datetime | None = None
    reason: str | None = Field(None, description="Why it ended, with the last lines of its log.")
    runs: list[str] = Field(description="Names of the runs that need the segment.")


class FailedAttempts(Answer):
    """The attempts of a sweep that did not complete, newest first."""

    items: list[FailedAttempt]


class ProblemDocument(BaseModel):
    """RFC 9457 problem document."""

    type: str = Field(
        description="Stable name of the kind of problem.", examples=["/docs/problems#unknown-sweep"]
    )
    title: str
    status: int
    detail: str = Field(description="What was wrong this time, and what would be right.")
    instance: str
    errors: list[dict[str, Any]] = Field(
        default_factory=list, description="Each thing that was wrong, and where."
    )
