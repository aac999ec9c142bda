"""The description of the API: complete, valid, and true of what the service answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import openapi_spec_validator
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Engine

from fitter.service import create_app
from ledger.models import Sweep
from ledger.settings import Settings
from orchestrator.command.serve_submit import planner

METHODS = ("get", "post", "delete", "put", "patch")


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of the whole API."""
    paths = app.openapi()["paths"]
    return [
        (method, path, item[method]) for path, item in paths.items() for method in METHODS if method in item
    ]


def test_every_operation_says_what_it_does_and_how_it_fails(app: FastAPI) -> None:
    found = operations(app)
    assert len(found) >= 20
    names = [operation["operationId"] for _, _, operation in found]
    assert len(names) == len(set(names))
    for method, path, operation in found:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        assert "application/problem+json" in operation["responses"]["4XX"]["content"], where
        for parameter in operation.get("parameters", []):
            assert parameter.get("description") or parameter["schema"].get("description"), (
                where,
                parameter["name"],
            )


def test_every_number_in_an_answer_has_a_unit_or_a_meaning(app: FastAPI) -> None:
    bare = []
    for name, schema in app.openapi()["components"]["schemas"].items():
        for field, kind in schema.get("properties", {}).items():
            kinds = [kind.get("type"), *(item.get("type") for item in kind.get("anyOf", []))]
            if "number" in kinds and not kind.get("description") and field not in ("low", "high"):
                bare.append(f"{name}.{field}")
    assert bare == []


def test_errors_are_described_as_they_are_sent(app: FastAPI) -> None:
    for method, path, operation in operations(app):
        for status in ("4XX", "5XX"):
            assert list(operation["responses"][status]["content"]) == ["application/problem+json"], (
                method,
                path,
            )


def test_the_description_says_where_a_token_is_needed(
    app: FastAPI, settings: Settings, engine: Engine
) -> None:
    scheme = app.openapi()["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert {} in app.openapi()["security"]  # on loopback none
    guarded = create_app(
        settings=replace(settings, api_token="sesame-sesame-123"), engine=engine, require_token=True
    )
    assert guarded.openapi()["security"] == [{"token": []}]
    client = TestClient(guarded, base_url="http://127.0.0.1")
    for method, path, operation in operations(guarded):
        answer = client.request(method, path.replace("{name}", "grid"))
        assert (answer.status_code == 401) == (operation.get("security") != []), (method, path)


def test_the_description_is_valid_openapi(app: FastAPI) -> None:
    openapi_spec_validator.validate(app.openapi())


def test_whatever_the_description_allows_is_answered_as_it_says(
    settings: Settings, engine: Engine, fitted: Sweep
) -> None:
    app = create_app(settings=settings, engine=engine, submit=planner(settings, engine, trusted=False))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "127.0.0.1"})
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    # A stream of events does not end.
    for result in schema.exclude(operation_id="sweep_events").get_all_operations():

        @hypothesis_settings(
            max_examples=8,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=result.ok().as_strategy())
        def ask(case: Any) -> None:
            if "name" in case.path_parameters:
                case.path_parameters["name"] = "grid"
            response = case.call(session=client, base_url="http://127.0.0.1")
            case.validate_response(
                response,
                checks=[
                    not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                ],
            )

        ask()
