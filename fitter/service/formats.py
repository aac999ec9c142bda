"""One table, three formats: JSON for programs, CSV for people, Parquet for data frames.

The format is negotiated by the `Accept` header; `?format=` overrides it, for addresses typed into a browser.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from fitter.service.problems import Problem, echo

Rows = Sequence[Mapping[str, Any]]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(StrEnum):
    """Formats of a table."""

    json = "json"
    csv = "csv"
    parquet = "parquet"


MEDIA_TYPES = {
    Format.json: "application/json",
    Format.csv: "text/csv",
    Format.parquet: "application/vnd.apache.parquet",
}

#: What OpenAPI says about an answer that is negotiated.
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The table, in the format asked for by `Accept` or `?format=`.",
        "content": {
            MEDIA_TYPES[Format.csv]: {"schema": {"type": "string"}},
            MEDIA_TYPES[Format.parquet]: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def wanted(request: Request, override: Format | None) -> Format:
    """The format to answer in. Raises Problem (406) where `Accept` allows none of ours."""
    if override is not None:
        return override
    accept = request.headers.get("accept", "*/*")
    weights = {form: _quality(accept, media_type) for form, media_type in MEDIA_TYPES.items()}
    best = max(weights, key=lambda form: weights[form])  # the first wins a tie: JSON
    if weights[best] <= 0:
        raise Problem(
            406,
            "not-acceptable",
            "None of the formats asked for is served here",
            f"Accept was '{echo(accept)}'; this address serves {', '.join(MEDIA_TYPES.values())}.",
        )
    return best


def _quality(accept: str, media_type: str) -> float:
    """q of a media type under an Accept header: the most specific range decides (RFC 9110, 12.5.1)."""
    best, specificity = 0.0, -1
    for item in accept.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if name == media_type:
            found = 2
        elif name == media_type.split("/")[0] + "/*":
            found = 1
        elif name in ("*/*", ""):
            found = 0
        else:
            continue
        if found > specificity:
            best, specificity = quality, found
    return best


def table(form: Format, rows: Rows, columns: Sequence[str], name: str) -> Response:
    """`rows` as CSV or Parquet, to be saved as `name`."""
    content = as_csv(rows, columns) if form is Format.csv else as_parquet(rows, columns)
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form.value}"', "Vary": "Accept"}
    media_type = MEDIA_TYPES[form] + ("; charset=utf-8" if form is Format.csv else "")
    return Response(content, media_type=media_type, headers=headers)


def as_csv(rows: Rows, columns: Sequence[str]) -> bytes:
    """CSV with a header. Text that a spreadsheet would run as a formula gets a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return repr(value)  # every digit, so that a table fits the same law when it comes back
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


def as_parquet(rows: Rows, columns: Sequence[str]) -> bytes:
    """Parquet with one row group, types as pyarrow finds them."""
    import pyarrow  # 60 MB of memory, for those who ask for Parquet
    import pyarrow.parquet

    arrays = {
        column: [value.value if isinstance(value := row.get(column), Enum) else value for row in rows]
        for column in columns
    }
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays), sink)
    return bytes(sink.getvalue().to_pybytes())
