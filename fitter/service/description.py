"""The OpenAPI document: what FastAPI gathers, with who may ask, and with errors as they are sent."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fitter.service import problems
from fitter.service.guard import OPEN_PATHS

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "One of `lacuna token create`, or the operator's (LACUNA_API_TOKEN). On loopback none is needed.",
}


def describe(app: FastAPI, *, require_token: bool) -> None:
    """Have the app answer `/openapi.json` with this document, which is made when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, require_token=require_token)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, *, require_token: bool) -> dict[str, Any]:
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        tags=app.openapi_tags,
        servers=[{"url": "/", "description": "this service"}],
        routes=app.routes,
    )
    found["components"]["securitySchemes"] = {"token": BEARER}
    found["security"] = [{"token": []}] if require_token else [{"token": []}, {}]
    for path, item in found["paths"].items():
        for operation in item.values():
            if path in OPEN_PATHS:
                operation["security"] = []
            for response in operation["responses"].values():
                # FastAPI names the media type of its own answers beside that of a problem document.
                if problems.MEDIA_TYPE in response.get("content", {}):
                    del response["content"]["application/json"]
    return found
