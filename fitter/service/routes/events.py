"""The stream of a sweep's events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fitter.service.context import Context, InContext, SweepName, known_sweep
from fitter.service.events import MOST_STREAMS, Position, Watch
from fitter.service.problems import Problem

router = APIRouter(prefix="/v1/sweeps/{name}", tags=["sweeps"])


@router.get(
    "/events",
    operation_id="sweep_events",
    summary="What happens to a sweep, as it happens",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`progress` (as `/progress`), `run` (one that ended, as in `/runs`), `law` (a new version: "
            "version, group, form, runs, created_at), each with its data as JSON.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        503: {"description": "Too many streams are open."},
    },
)
async def sweep_events(
    request: Request,
    context: InContext,
    name: SweepName,
    last_event_id: Annotated[
        str | None,
        Header(description="Id of the last event that was received, to get those after it.", max_length=100),
    ] = None,
) -> StreamingResponse:
    """Server-sent events. A client that reconnects with `Last-Event-ID` gets what it missed."""
    await run_in_threadpool(_check, context, name)
    watch: Watch = request.app.state.watch
    if watch.streams >= MOST_STREAMS:
        raise Problem(
            503,
            "too-many-streams",
            "Too many event streams are open",
            f"{MOST_STREAMS} are open: close one, or poll /progress.",
            headers={"Retry-After": "10"},
        )
    stream = watch.stream(name, Position.parse(last_event_id), request.is_disconnected)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _check(context: Context, name: str) -> None:
    with context.engine.connect() as connection:
        known_sweep(connection, name)
