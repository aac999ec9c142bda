"""The page: HTML shells that the scripts fill from the REST interface, and the interactive API documentation."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from fitter.service import assets
from fitter.service.context import Context, InContext, known_sweep
from fitter.service.problem_kinds import KINDS

router = APIRouter(include_in_schema=False)

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["static"] = assets.address
_TEMPLATES.globals["modules"] = assets.modules


def render(template: str, context: Context, **values: object) -> HTMLResponse:
    """A page. Pages are small and name their scripts by digest, so browsers must ask for them anew."""
    html = _TEMPLATES.get_template(template).render(
        links=context.links, login=context.require_token, **values
    )
    return HTMLResponse(html, headers={"Cache-Control": "no-cache"})


@router.get("/")
def home(context: InContext) -> HTMLResponse:
    """The list of sweeps."""
    return render("home.html", context, title="Sweeps")


@router.get("/sweeps/{name}")
def sweep(context: InContext, name: str) -> HTMLResponse:
    """One sweep."""
    with context.engine.connect() as connection:
        row = known_sweep(connection, name)
    return render("sweep.html", context, title=row.name, name=row.name)


@router.get("/docs")
def docs(request: Request, context: InContext) -> HTMLResponse:
    """The API, to be tried out in the browser; Swagger UI from this machine."""
    return render("docs.html", context, title="REST API", openapi=str(request.app.openapi_url))


@router.get("/docs/problems")
def problem_kinds(context: InContext) -> HTMLResponse:
    """What the `type` of a problem document refers to."""
    return render("problems.html", context, title="Problems", kinds=KINDS)
