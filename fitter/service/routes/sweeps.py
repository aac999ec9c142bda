"""Sweeps: the list, one of them, submitting, and pause, resume, cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from fitter.mlflow_pages import experiment_page
from fitter.service import cursors, progress, queries
from fitter.service.context import Context, InContext, SweepName, known_sweep
from fitter.service.problems import Problem
from fitter.service.schemas import (
    Changed,
    FailedAttempt,
    FailedAttempts,
    Forest,
    ForestSegment,
    LawGroup,
    Progress,
    Retried,
    Submitted,
    Sweep,
    SweepList,
)
from ledger import models, runs, sweeps
from ledger.models import SegmentState, SweepState

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])

SPEC_TYPES = (
    "application/yaml",
    "application/x-yaml",
    "text/yaml",
    "text/x-yaml",
    "text/plain",
    "application/json",
)
"""Media types of a spec, the first the registered one (RFC 9512)."""


@router.get("", operation_id="list_sweeps", summary="List sweeps, newest first")
def list_sweeps(
    context: InContext,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before.", max_length=100)
    ] = None,
    limit: Annotated[int, Query(description="Sweeps on a page.", ge=1, le=500)] = 100,
) -> SweepList:
    """Each sweep with its state, its runs by state, its best loss and the newest version of its law."""
    before = cursors.decode("sweeps", cursor)
    with context.engine.connect() as connection:
        rows = queries.sweeps_page(connection, before=before, limit=limit + 1)
        items = progress.summaries(connection, rows[:limit])
    more = len(rows) > limit
    return SweepList(items=items, next_cursor=cursors.encode("sweeps", rows[limit - 1].id) if more else None)


@router.post(
    "",
    operation_id="submit_sweep",
    summary="Submit a sweep",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The spec: the bytes of the YAML file as they are, or the same as JSON.",
            "content": {
                kind: {"schema": {"type": "string"} if "json" not in kind else {"type": "object"}}
                for kind in ("application/yaml", "text/plain", "application/json")
            },
        }
    },
    responses={
        200: {
            "description": "The sweep was there already; `outcome` says whether it grew.",
            "model": Submitted,
        },
        409: {"description": "The name is taken by a sweep with another content."},
        501: {"description": "This service was started without a planner."},
    },
)
async def submit_sweep(request: Request, response: Response, context: InContext) -> Submitted:
    """Checks and plans the spec and writes the sweep to the ledger, where the controller finds it.

    Every problem of a spec is reported at once, each with its YAML path, its line and what would be right; then
    nothing is stored. The same body twice is one sweep: 201 the first time, 200 after that.
    """
    from starlette.concurrency import run_in_threadpool

    if context.submit is None:
        raise Problem(
            501,
            "no-planner",
            "This service cannot plan sweeps",
            "It was started without a planner. `lacuna serve` starts one that has it.",
        )
    kind = request.headers.get("content-type", "application/yaml").split(";")[0].strip().lower()
    if kind not in SPEC_TYPES:
        raise Problem(
            415,
            "unsupported-media-type",
            "The spec has a media type that is not read here",
            f"Content-Type was '{kind}'; send {SPEC_TYPES[0]} (the file's bytes) or application/json.",
        )
    result = await run_in_threadpool(context.submit, await request.body(), kind)
    address = f"/v1/sweeps/{quote(result.name)}"
    response.status_code = 201 if result.created else 200
    response.headers["Location"] = address
    links = {"self": address, "page": f"/sweeps/{quote(result.name)}"}
    return Submitted(
        name=result.name,
        created=result.created,
        outcome=result.outcome,
        runs_added=result.runs_added,
        plan=result.plan,
        links=links,
    )


@router.get("/{name}", operation_id="get_sweep", summary="One sweep, with its spec and its progress")
def get_sweep(context: InContext, name: SweepName) -> Sweep:
    """What was submitted, what was planned, and how far it is."""
    with Session(context.engine) as session:
        connection = session.connection()
        row = known_sweep(connection, name)
        summary = progress.summaries(connection, [row])[0]
        text = queries.sweep_text(connection, row.id)
        far = progress.progress(session, row)
        groups = queries.groups(connection, row.id)
    return Sweep(
        **summary.model_dump(),
        **text,
        progress=far,
        groups=[LawGroup(name=name, runs=sorted(members)) for name, members in groups.items() if name],
        links=links_of(context, row.name, row.tracking_id),
    )


@router.get("/{name}/progress", operation_id="get_progress", summary="How far a sweep is")
def get_progress(context: InContext, name: SweepName) -> Progress:
    """Runs and segments by state, what is being trained now, speed, and the time left."""
    with Session(context.engine) as session:
        return progress.progress(session, known_sweep(session.connection(), name))


@router.get("/{name}/forest", operation_id="get_forest", summary="The segment forest of a sweep")
def get_forest(context: InContext, name: SweepName) -> Forest:
    """Every training segment with its parent, its state and the runs that share it; parents come first."""
    with context.engine.connect() as connection:
        rows = queries.forest(connection, known_sweep(connection, name).id)
    return Forest(segments=[_forest_segment(row) for row in rows])


def _forest_segment(row: Any) -> ForestSegment:
    running = row["state"] is SegmentState.running
    completed = row["state"] is SegmentState.completed
    return ForestSegment(
        key=row["key"],
        parent_key=row["parent_key"],
        start_step=row["start_step"],
        end_step=row["end_step"],
        state=row["state"],
        runs=sorted(row["positions"]),
        flops=row["flops"],
        step=max(row["step"] or 0, row["start_step"]) if running else None,
        attempts=row["attempts"],
        reason=None if completed else row["reason"],
    )


@router.post("/{name}/pause", operation_id="pause_sweep", summary="Pause a sweep")
def pause_sweep(context: InContext, name: SweepName) -> Changed:
    """Workers stop at their next checkpoint and nothing new is started. Pausing a paused sweep changes nothing."""
    return _change(context, name, sweeps.pause, (SweepState.active,), SweepState.paused)


@router.post("/{name}/resume", operation_id="resume_sweep", summary="Resume a paused or cancelled sweep")
def resume_sweep(context: InContext, name: SweepName) -> Changed:
    """Training goes on from the checkpoints. Resuming an active sweep changes nothing."""
    return _change(context, name, sweeps.resume, (SweepState.paused, SweepState.cancelled), SweepState.active)


@router.post("/{name}/cancel", operation_id="cancel_sweep", summary="Cancel a sweep")
def cancel_sweep(context: InContext, name: SweepName) -> Changed:
    """As pausing, and the sweep counts as over. What was trained stays; resuming takes it up again."""
    return _change(context, name, sweeps.cancel, (SweepState.active, SweepState.paused), SweepState.cancelled)


@router.post("/{name}/retry", operation_id="retry_sweep", summary="Give failed runs another try")
def retry_sweep(context: InContext, name: SweepName) -> Retried:
    """The failed runs get a new budget of attempts. Diverged runs stay: they would diverge again."""
    with Session(context.engine) as session, session.begin():
        known_sweep(session.connection(), name)
        retried = sweeps.retry(session, name)
    return Retried(name=name, runs=retried)


@router.get("/{name}/attempts", operation_id="list_failed_attempts", summary="Attempts that did not complete")
def list_failed_attempts(context: InContext, name: SweepName) -> FailedAttempts:
    """Every attempt on a segment of the sweep that failed, diverged, was lost or stopped, with its reason."""
    with Session(context.engine) as session:
        known_sweep(session.connection(), name)
        rows = runs.failed_attempts(session, name)
    return FailedAttempts(items=[FailedAttempt(**row) for row in rows[:MOST_ATTEMPTS]])


MOST_ATTEMPTS = 1000


def _change(
    context: Context,
    name: str,
    change: Callable[[Session, str], models.Sweep],
    allowed: tuple[SweepState, ...],
    becomes: SweepState,
) -> Changed:
    with Session(context.engine) as session, session.begin():
        known_sweep(session.connection(), name)
        state = change(session, name).state  # read under the row's lock
        if state is not becomes:
            raise Problem(
                409,
                "wrong-state",
                "The sweep's state does not allow this",
                f"'{name}' is {state.value}: only a sweep that is "
                f"{' or '.join(item.value for item in allowed)} can become {becomes.value}.",
            )
    return Changed(name=name, state=becomes)


def links_of(context: Context, name: str, tracking_id: str | None) -> dict[str, str]:
    """Where else to look for a sweep."""
    links = {"page": f"/sweeps/{quote(name)}", "law": f"/v1/sweeps/{quote(name)}/law"}
    if context.links.mlflow and tracking_id:
        links["mlflow"] = experiment_page(context.links.mlflow, tracking_id)
    return links
