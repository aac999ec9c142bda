"""Whether the service lives and can serve."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from fitter.service import queries
from fitter.service.context import InContext
from fitter.service.problems import Problem

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="healthz", summary="Whether the process lives")
def healthz() -> dict[str, str]:
    """Answers as long as the process does; asks nothing of the ledger, so that an outage of it restarts nobody."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether requests can be answered",
    responses={503: {"description": "The ledger does not answer."}},
)
def readyz(context: InContext) -> dict[str, str]:
    """Answers 200 when the ledger does."""
    try:
        with context.engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM sweeps LIMIT 1"))
    except SQLAlchemyError as error:
        raise Problem(
            503,
            "ledger-unavailable",
            "The ledger does not answer",
            f"{context.engine.url.render_as_string()} does not answer: check that Postgres runs there.",
            headers={"Retry-After": "2"},
        ) from error
    return {"status": "ok"}


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request, context: InContext) -> Response:
    """Requests, their times, open streams, and what the ledger holds by state."""
    with context.engine.connect() as connection:
        states = queries.states(connection)
    text = request.app.state.metrics.text(states, request.app.state.watch.streams)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
