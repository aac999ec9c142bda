"""Posted tables: read from a request's body, and worked on one at a time."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from fitter.errors import TableError
from fitter.service.problems import Problem, echo
from fitter.table import Columns, columns, read

T = TypeVar("T")

ENDINGS = {
    "application/json": ".json",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/vnd.apache.parquet": ".parquet",
}
WAITING = 4
"""Tables that may wait for the one that is being fitted; a fit takes a core for a second or more."""

_one_at_a_time = asyncio.Semaphore(1)
_waiting = 0


def request_body(description: str) -> dict[str, Any]:
    """What OpenAPI says of a body that is a table."""
    return {
        "requestBody": {
            "required": True,
            "description": f"{description} CSV, Parquet, or JSON (a list of records, or an object of columns).",
            "content": {
                "application/json": {
                    "schema": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "object"}]}
                },
                "text/csv": {"schema": {"type": "string"}},
                "text/tab-separated-values": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


def ending(content_type: str) -> str:
    """The file ending of a media type. Raises Problem (415) for one that is no table's."""
    kind = content_type.split(";")[0].strip().lower()
    if kind not in ENDINGS:
        raise Problem(
            415,
            "unsupported-media-type",
            "The table has a media type that is not read here",
            f"Content-Type was '{echo(kind)}'; send one of {', '.join(ENDINGS)}.",
        )
    return ENDINGS[kind]


def parse(body: bytes, ending: str) -> Columns:
    """The columns of a body. Raises TableError."""
    if ending == ".json":
        try:
            given: Any = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise TableError([f"the body is no JSON: {error}"]) from error
        if isinstance(given, dict) and isinstance(given.get("runs"), list):
            given = given["runs"]
        return columns(given)
    with tempfile.TemporaryDirectory(prefix="lacuna-table-") as directory:
        path = Path(directory) / f"table{ending}"
        path.write_bytes(body)
        try:
            return read(path)
        except TableError as error:  # of a file that the caller has never heard of
            raise TableError(
                [problem.replace(f"'{path}'", "the body") for problem in error.problems]
            ) from error


async def in_turn(work: Callable[..., T], *arguments: Any) -> T:
    """Do what ends in a fit, in a thread, after those that came before. Raises Problem (503) where many wait."""
    global _waiting
    if _waiting >= WAITING:
        raise Problem(
            503,
            "busy",
            "Other fits are being done",
            f"{_waiting} tables wait already; try again in a moment.",
            headers={"Retry-After": "5"},
        )
    _waiting += 1
    try:
        async with _one_at_a_time:
            return await run_in_threadpool(work, *arguments)
    finally:
        _waiting -= 1
