"""Every error as an RFC 9457 problem document (`application/problem+json`).

A problem says what was wrong (`title`), where and with which value (`detail`, `errors`), and what would be right.
`type` is a relative reference into the documentation, stable over versions, so that programs can switch on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.exceptions import HTTPException

from fitter.errors import NotIdentifiedError, SettingError, TableError
from fitter.service.submission import SubmitError

MEDIA_TYPE = "application/problem+json"
LONGEST_ECHO = 120
"""Characters of a refused value that are repeated in an answer."""
MOST_ERRORS = 100
"""Entries of `errors`: nobody mends more at once."""

log = logging.getLogger(__name__)


class Problem(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        kind: last part of the problem's type, such as `unknown-sweep`.
        title: one short sentence, the same for every problem of this kind.
        detail: what was wrong this time, and what would be right.
        errors: one entry for each thing that was wrong, where there may be several.
        headers: response headers that belong to the error (`Retry-After`, `WWW-Authenticate`).
        more: further members of the document.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[dict[str, Any]] = (),
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.status, self.kind, self.title, self.detail = status, kind, title, detail
        self.errors, self.headers, self.more = list(errors), headers or {}, more
        super().__init__(detail)

    def response(self, request: Request) -> JSONResponse:
        """The problem document for this request."""
        body: dict[str, Any] = {
            "type": f"/docs/problems#{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": request.url.path,
            **self.more,
        }
        if self.errors:
            body["errors"] = self.errors
        return JSONResponse(body, self.status, media_type=MEDIA_TYPE, headers=self.headers)


def unknown_sweep(name: str, known: Sequence[str] = ()) -> Problem:
    """No sweep has this name; `known` are names that look like it."""
    hint = f" Did you mean {' or '.join(known)}?" if known else " GET /v1/sweeps lists all sweeps."
    return Problem(404, "unknown-sweep", "There is no such sweep", f"No sweep is named '{echo(name)}'.{hint}")


def unanswerable(detail: str) -> Problem:
    """The question makes no sense to a law."""
    return Problem(422, "invalid-question", "The law cannot answer this question", detail)


def echo(value: Any) -> str:
    """A refused value, short and printable enough to stand in an error."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in str(value))
    return text if len(text) <= LONGEST_ECHO else text[: LONGEST_ECHO - 1] + "…"


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(SubmitError, _submit)
    app.add_exception_handler(TableError, _table)
    app.add_exception_handler(NotIdentifiedError, _not_identified)
    app.add_exception_handler(SettingError, _setting)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(Exception, _defect)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.response(request)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {
            "where": ".".join(echo(part) for part in entry["loc"]),
            "value": _plain(entry.get("input")),
            "message": entry["msg"],
        }
        for entry in error.errors()[:MOST_ERRORS]
    ]
    detail = "; ".join(f"{entry['where']}: {entry['message']}" for entry in errors[:3])
    return Problem(
        422, "invalid-request", "The request does not fit the schema", detail, errors=errors
    ).response(request)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "a number of more than 18 digits"
    return value if isinstance(value, bool | int | float | None) else echo(value)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    details = {
        404: f"Nothing is served at '{echo(request.url.path)}'. /docs lists all addresses.",
        405: f"'{echo(request.url.path)}' does not take {echo(request.method)}. /docs lists what it takes.",
    }
    return Problem(
        error.status_code,
        phrase.lower().replace(" ", "-"),
        phrase,
        details.get(error.status_code, str(error.detail)),
        headers=dict(error.headers or {}),
    ).response(request)


async def _submit(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SubmitError)
    count = len(error.problems)
    detail = f"{count} problem{'s' if count != 1 else ''} found; nothing was stored."
    status, kind, title = (
        (409, "sweep-conflict", "A sweep of this name has another content")
        if error.conflict
        else (422, "invalid-spec", "The sweep spec was refused")
    )
    errors = [
        {key: _plain(item) for key, item in problem.items()} for problem in error.problems[:MOST_ERRORS]
    ]
    return Problem(status, kind, title, detail, errors=errors).response(request)


async def _table(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TableError)
    errors = [{"message": problem} for problem in error.problems[:MOST_ERRORS]]
    return Problem(422, "invalid-table", "The runs table cannot be used", str(error), errors=errors).response(
        request
    )


async def _not_identified(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NotIdentifiedError)
    return Problem(
        422,
        "law-not-identified",
        "These runs cannot identify the law",
        "; ".join(error.missing),
        missing=error.missing,
        form=error.form,
    ).response(request)


async def _setting(request: Request, error: Exception) -> JSONResponse:
    return unanswerable(str(error)).response(request)


async def _database(request: Request, error: Exception) -> JSONResponse:
    log.error("database error at %s %s: %s", request.method, request.url.path, error)
    if isinstance(error, OperationalError):
        return Problem(
            503,
            "ledger-unavailable",
            "The ledger does not answer",
            "Postgres refused or dropped the connection. The request changed nothing that was not committed; "
            "try again, and see /readyz.",
            headers={"Retry-After": "2"},
        ).response(request)
    return Problem(
        500, "ledger-error", "The ledger refused a query", "This is a defect; the log of the service has it."
    ).response(request)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    log.exception("defect at %s %s", request.method, request.url.path, exc_info=error)
    return Problem(
        500, "defect", "The service failed", "This is a defect; the log of the service has it."
    ).response(request)
