"""The tables of the ledger, typed.

A *sweep* has *runs* (the cells of its grid). A run is a path of *segments*; segments are named by the key of the
state they end in, belong to no sweep, and are shared by all that need them. The *controller* that leads hands them
out; whoever carries one out holds an *attempt*, whose id is the fencing token. *Metric points* belong to segments, so
that a shared trunk's points are stored once. *Fits* are the versions of a sweep's law.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, DateTime, Enum, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables; JSON is JSONB, text is unbounded, times carry their zone."""

    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's own convention)
        dict[str, Any]: JSONB,
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
    }


class SweepState(StrEnum):
    """What the user wants of a sweep, and, once all its runs have ended, that it is over."""

    active = "active"
    paused = "paused"
    cancelled = "cancelled"
    completed = "completed"  # every run ended: completed, failed or diverged


class SegmentState(StrEnum):
    """Where a segment stands. `running` holds exactly while an attempt's lease is alive or awaits judgement."""

    pending = "pending"
    running = "running"
    completed = "completed"
    failed = "failed"  # the budget of attempts is spent
    diverged = "diverged"  # NaN or a loss that ran away: never retried, never completed


class AttemptState(StrEnum):
    """How an attempt at a segment stands or ended."""

    running = "running"
    completed = "completed"
    stopped = "stopped"  # paused or cancelled or Ctrl-C, at a checkpoint
    lost = "lost"  # its lease ran out, or a new controller fenced it off
    failed = "failed"
    diverged = "diverged"


class AttemptEnd(StrEnum):
    """What ended an attempt that did not complete, told apart because each is answered differently."""

    preempted = (
        "preempted"  # the machine was taken away, or the process killed: again, as long as it gets anywhere
    )
    fenced = "fenced"  # another controller took over: again, without limit
    stopped = "stopped"  # pause, cancel or Ctrl-C: again when wanted
    memory = "memory"  # out of memory: by an exception, or (state `lost`) killed for it
    divergence = "divergence"  # never again
    data = "data"  # the prepared data are missing or not what the plan saw
    checkpoint = "checkpoint"  # a torn or foreign checkpoint
    code = "code"  # any other exception


def _state(kind: type[StrEnum]) -> Enum:
    # Text, not a Postgres enum: adding a state then needs no change of a type under a lock.
    return Enum(kind, native_enum=False, length=16, values_callable=lambda states: [s.value for s in states])


class Sweep(Base):
    """One submitted YAML file."""

    __tablename__ = "sweeps"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    spec: Mapped[dict[str, Any]]  # canonical, defaults written out
    spec_text: Mapped[str]  # the YAML as it was submitted
    spec_digest: Mapped[str]  # SHA-256 of the canonical spec
    plan: Mapped[dict[str, Any]]  # what `lacuna plan --json` printed at submission
    state: Mapped[SweepState] = mapped_column(_state(SweepState), default=SweepState.active)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    priority: Mapped[int] = mapped_column(default=0)  # higher first, before the segments' own priorities
    tracking_id: Mapped[str | None]  # MLflow experiment


class Segment(Base):
    """A stretch [start_step, end_step) of a program; the key names the state after end_step."""

    __tablename__ = "segments"
    __table_args__ = (
        # What the controller asks for again and again: few rows of many.
        Index("segments_waiting", "priority", postgresql_where=text("state = 'pending'")),
    )

    key: Mapped[str] = mapped_column(primary_key=True)  # trainer.program.Program.key_at(end_step)
    parent_key: Mapped[str | None] = mapped_column(ForeignKey("segments.key"), index=True)
    start_step: Mapped[int]
    end_step: Mapped[int]
    program: Mapped[dict[str, Any]]  # Program.to_dict() of one program that has this state
    data_path: Mapped[str]  # prepared data, as the planner saw it
    flops: Mapped[float]  # of this stretch, dense accounting
    state: Mapped[SegmentState] = mapped_column(
        _state(SegmentState), default=SegmentState.pending, index=True
    )
    priority: Mapped[int] = mapped_column(default=0)  # higher first: FLOPs that wait on this segment
    attempts_left: Mapped[int] = mapped_column(
        default=3
    )  # failures only: what was lost or stopped costs nothing
    retry_at: Mapped[datetime | None]  # a failed attempt's successor waits until then
    checkpoint: Mapped[str | None]  # URL of the state at end_step; none where completed: collected as garbage
    progress_checkpoint: Mapped[str | None]  # URL of the newest state inside the segment
    progress_step: Mapped[int | None]
    result: Mapped[dict[str, Any] | None]  # SegmentResult.to_dict()
    completed_at: Mapped[datetime | None]


class Run(Base):
    """One cell of a sweep's grid. Its state and loss are those of its tip segment, copied when it ends."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("sweep_id", "position"),
        Index("runs_by_tip", "tip_key"),
        # Whether a sweep is over is asked whenever a run ends.
        Index("runs_waiting", "sweep_id", postgresql_where=text("state = 'pending'")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    sweep_id: Mapped[int] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"))
    position: Mapped[int]  # order in the grid, from 0
    name: Mapped[str]  # "N=5.3M S=75% D=16B gmp"
    cell: Mapped[dict[str, Any]]  # family, pattern, method, sparsity, nonzero_params, steps, seed, data, …
    tip_key: Mapped[str | None] = mapped_column(ForeignKey("segments.key"))  # none: trained elsewhere
    state: Mapped[SegmentState] = mapped_column(_state(SegmentState), default=SegmentState.pending)
    loss: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None]  # why it failed or diverged, and in which segment
    completed_at: Mapped[datetime | None]
    tracking_id: Mapped[str | None]  # MLflow run
    tracked_step: Mapped[int] = mapped_column(default=-1)  # MLflow has the points up to this step
    tracked_final: Mapped[bool] = mapped_column(default=False)


class RunSegment(Base):
    """The path of a run: its segments, trunk first."""

    __tablename__ = "run_segments"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    segment_key: Mapped[str] = mapped_column(ForeignKey("segments.key"), index=True)


class Attempt(Base):
    """One try at a segment. `id` is the fencing token: only the running attempt may write, and there is but one."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index(
            "attempts_running_once",
            "segment_key",
            unique=True,
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    segment_key: Mapped[str] = mapped_column(ForeignKey("segments.key"), index=True)
    controller: Mapped[str]  # which controller handed it out
    worker: Mapped[str]  # "host:process id"
    state: Mapped[AttemptState] = mapped_column(_state(AttemptState), default=AttemptState.running)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    started_step: Mapped[int] = mapped_column(
        default=0
    )  # where it began: the segment's start, or a checkpoint
    step: Mapped[int] = mapped_column(default=0)  # as of the last heartbeat
    loss: Mapped[float | None]  # training loss as of the last heartbeat
    kind: Mapped[AttemptEnd | None] = mapped_column(_state(AttemptEnd))
    reason: Mapped[str | None]  # why it ended, with the last log lines


class Controller(Base):
    """A process that hands out segments. At most one leads: the one that holds the advisory lock."""

    __tablename__ = "controllers"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    process: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]  # none, and another leads: it was killed
    stopping: Mapped[bool] = mapped_column(default=False)  # its workers shall stop at their next checkpoint


class MetricPoint(Base):
    """One value of one metric after one step of one segment."""

    __tablename__ = "metric_points"

    segment_key: Mapped[str] = mapped_column(ForeignKey("segments.key"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Fit(Base):
    """One version of a sweep's law: the document that `lacuna fit --json` prints."""

    __tablename__ = "fits"
    __table_args__ = (UniqueConstraint("sweep_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sweep_id: Mapped[int] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"))
    version: Mapped[int]  # 1, 2, … within the sweep
    # Which of its runs: those of one family, method and pattern (fitter.groups). Empty: one law for all of them.
    group: Mapped[str] = mapped_column("group_name", default="", server_default="")
    form: Mapped[str]
    document: Mapped[dict[str, Any]]
    runs_digest: Mapped[str]  # SHA-256 of the runs it used
    runs: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    tracking_id: Mapped[str | None]


class ApiToken(Base):
    """A bearer token of the service: its hash, never its text."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]  # SHA-256 of the secret
    name: Mapped[str]
    scopes: Mapped[str]  # separated by spaces
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
