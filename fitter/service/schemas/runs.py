"""Answers about the runs of a sweep, the forest they are trained in, and attempts that failed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from fitter.service.schemas.quantities import Answer
from ledger.models import SegmentState


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


class ImportedRuns(Answer):
    """What became of a table of finished runs."""

    name: str
    created: bool = Field(description="Whether the sweep is new.")
    added: int = Field(description="Runs that the sweep did not have before.")
    unchanged: int = Field(description="Rows that the sweep had already, with the same loss.")
    law_version: int | None = Field(None, description="Newest version of the sweep's law.")
    missing: list[str] = Field(default_factory=list, description="What a law waits for, one sentence each.")
    links: dict[str, str]


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
