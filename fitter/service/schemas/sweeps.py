"""Answers about sweeps: the list, one of them, how far it is, and what becomes of a change."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from fitter.service.schemas.quantities import Answer
from ledger.models import SweepState


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


class LawGroup(Answer):
    """Runs that one law describes: of one family, pruned by one method to one pattern, and the dense ones with them."""

    name: str = Field(description="What `group` of the law's addresses takes, such as `gmp 2:4`.")
    runs: list[int] = Field(description="Positions of its runs.")


class Sweep(SweepSummary):
    """One sweep, with what was submitted and how far it is."""

    spec: dict[str, Any] = Field(description="The spec with every default written out.")
    spec_text: str = Field(description="The YAML as it was submitted.")
    plan: dict[str, Any] = Field(description="What `lacuna plan --json` printed at submission.")
    progress: Progress
    groups: list[LawGroup] = Field(
        default_factory=list,
        description="Where families, methods or patterns are mixed: the groups of runs that have a law each, the first "
        "of them the default. Empty where one law describes all runs.",
    )
    links: dict[str, str] = Field(description="Where else to look, such as the MLflow experiment.")


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


class Retried(Answer):
    """What became of a sweep's failed runs."""

    name: str
    runs: int = Field(description="Runs that failed and wait again now.")
