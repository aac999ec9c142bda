"""The application: routes, errors, limits and the page put together."""

from __future__ import annotations

from dataclasses import replace

from fastapi import FastAPI
from sqlalchemy import Engine

from fitter.service import assets, problems
from fitter.service.context import Context
from fitter.service.description import describe
from fitter.service.events import Watch
from fitter.service.guard import Guard
from fitter.service.laws import LawCache
from fitter.service.metrics import Metrics
from fitter.service.routes import (
    contours,
    events,
    fit,
    held_out,
    imports,
    law,
    operations,
    optimum,
    pages,
    runs,
    session,
    suggestions,
    sweeps,
)
from fitter.service.schemas import ProblemDocument
from fitter.service.submission import AfterImport, Links, Submit
from fitter.service.tokens import Doorkeeper
from ledger.settings import Settings

DESCRIPTION = """How sparse should my model be? Sweeps, their runs, the fitted sparsity law and what it answers.

Units: losses in nats per token (or image), data D in tokens (or images), compute C in FLOPs, sparsity S a fraction in
[0, 1), N non-zero parameters. Errors are RFC 9457 problem documents. Lists are read by cursor."""

TAGS = [
    {"name": "sweeps", "description": "Submit sweeps, see how far they are, pause and resume them."},
    {"name": "runs", "description": "The cells of a sweep's grid and their losses."},
    {"name": "law", "description": "The fitted law and what it answers."},
    {"name": "fit", "description": "Fit a table of your own, without storing it."},
    {"name": "operations", "description": "For those who run the service."},
]


def create_app(
    *,
    settings: Settings,
    engine: Engine,
    submit: Submit | None = None,
    after_import: AfterImport | None = None,
    links: Links | None = None,
    require_token: bool = False,
) -> FastAPI:
    """The service on an open ledger.

    Args:
        settings: where things are; `api_token` is the operator's token.
        engine: a ledger that answers and has our tables (`ledger.engine.open_ledger`).
        submit: checks, plans and stores a spec; without it `POST /v1/sweeps` answers 501.
        after_import: told of each sweep into which runs were imported.
        links: addresses that the page links to.
        require_token: ask for a bearer token everywhere but at the health checks.
    """

    problem = {
        "model": ProblemDocument,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
    app = FastAPI(
        title="Lacuna",
        version="1",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={
            "4XX": {"description": "RFC 9457 problem document.", **problem},
            "5XX": {"description": "RFC 9457 problem document.", **problem},
        },
    )
    app.state.context = Context(
        settings=settings,
        engine=engine,
        laws=LawCache(),
        links=links or Links(),
        submit=submit,
        after_import=after_import,
        require_token=require_token,
    )
    app.state.watch = Watch(lambda: app.state.context)
    app.state.metrics = Metrics()
    app.state.doorkeeper = Doorkeeper(settings, engine)
    problems.install(app)
    app.add_middleware(
        Guard, require_token=require_token, doorkeeper=app.state.doorkeeper, metrics=app.state.metrics
    )
    for module in (
        *(sweeps, runs, imports, law, optimum, held_out, contours, suggestions, events, fit),
        *(operations, pages, session, assets),
    ):
        app.include_router(module.router)
    describe(app, require_token=require_token)
    return app


def set_links(app: FastAPI, links: Links) -> None:
    """Change where the pages of a running service link to."""
    app.state.context = replace(app.state.context, links=links)
