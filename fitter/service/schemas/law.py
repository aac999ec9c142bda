"""Questions to a law, and its answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fitter.service.schemas.quantities import (
    MOST_OPTIMA,
    MOST_QUESTIONS,
    Accounting,
    Answer,
    Data,
    DataQuestion,
    Flops,
    FlopsQuestion,
    Interval,
    Loss,
    NonzeroParams,
    ParamsQuestion,
    Sparsity,
    SparsityQuestion,
)


class FitVersion(Answer):
    """One version of a sweep's law, in short."""

    version: int
    group: str = Field(description="Which of the sweep's groups of runs it describes; empty: all runs.")
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
    group: str = Field("", description="The group of runs that this law describes; empty: all of the sweep.")


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
    intervals: bool = Field(
        True, description="False: the losses alone, which come far sooner; `low` and `high` are then null."
    )


class Predictions(Answer):
    """What the law says about many models, as columns."""

    loss: list[float] = Field(description="[n] predicted loss, in nats.")
    low: list[float | None] = Field(description="[n] lower end of the interval of the law.")
    high: list[float | None] = Field(description="[n] upper end of the interval of the law.")
    level: float = Field(description="Level of the intervals, such as 0.9.")
    version: int = Field(description="Version of the law that answered.")
    group: str = Field("", description="The group of runs that this law describes; empty: all of the sweep.")


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
    group: str = Field("", description="The group of runs that this law describes; empty: all of the sweep.")


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


class Contour(Answer):
    """The line in the (N, C) plane along which one sparsity is the best."""

    sparsity: Sparsity
    flops: list[float | None] = Field(
        description="[n] training compute C at which it is the best, in FLOPs; null where no number says it: within "
        "rounding of a sparsity of 1."
    )
    low: list[float | None] = Field(description="[n] lower end of the interval of C.")
    high: list[float | None] = Field(description="[n] upper end of the interval of C.")
    data: list[float | None] = Field(description="[n] data seen there, in tokens (or images), or null.")


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
    group: str = Field("", description="The group of runs that this law describes; empty: all of the sweep.")


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
