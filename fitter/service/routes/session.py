"""Logging in on the page: a token kept where no script can read it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from fitter.service.context import InContext
from fitter.service.guard import COOKIE
from fitter.service.problems import Problem
from fitter.service.routes.pages import render

router = APIRouter(include_in_schema=False)

KEPT_SECONDS = 30 * 24 * 3600


class Login(BaseModel):
    """What the login form sends."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=500)


@router.get("/login")
def login(context: InContext) -> HTMLResponse:
    """The login form."""
    return render("login.html", context, title="Log in")


@router.post("/session", status_code=204)
async def begin(request: Request, response: Response, login: Login) -> None:
    """Keep a valid token in a cookie that scripts cannot read and other sites cannot send."""
    doorkeeper = request.app.state.doorkeeper
    if not await run_in_threadpool(doorkeeper.scopes, login.token.strip()):
        raise Problem(
            401,
            "unknown-token",
            "The token opens nothing",
            "It is unknown, expired or revoked. Ask whoever runs this service for one.",
        )
    response.set_cookie(
        COOKIE,
        login.token.strip(),
        max_age=KEPT_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.delete("/session", status_code=204)
def end(response: Response) -> None:
    """Forget the token."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
