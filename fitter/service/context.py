"""What every request may use: one value, made when the application is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy import Connection, Engine

from fitter.service import problems, queries
from fitter.service.laws import LawCache
from fitter.service.submission import AfterImport, Links, Submit
from ledger.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Context:
    """The service's parts. Immutable but for the cache."""

    settings: Settings
    engine: Engine
    laws: LawCache
    links: Links
    submit: Submit | None = None
    after_import: AfterImport | None = None
    require_token: bool = False

    @cached_property
    def reading(self) -> Engine:
        """The engine for a request that asks one thing: without a transaction, which would be two more round trips."""
        return self.engine.execution_options(isolation_level="AUTOCOMMIT")


async def context_of(request: Request) -> Context:
    """The context of the application that got this request.

    Async although it awaits nothing: FastAPI would send anything else through a thread, at each request.
    """
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


InContext = Annotated[Context, Depends(context_of)]
SweepName = Annotated[str, Path(description="Name of the sweep.", max_length=200, examples=["quickstart"])]


def known_sweep(connection: Connection, name: str) -> queries.SweepRow:
    """The sweep of that name. Raises Problem (404), with names that look like it."""
    if not queries.NAME.fullmatch(name):
        raise problems.unknown_sweep(name)
    found = queries.sweep(connection, name)
    if found is None:
        raise problems.unknown_sweep(name, queries.similar_names(connection, name))
    return found
