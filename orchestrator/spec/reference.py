"""The spec's reference, for editors (JSON Schema) and for people (docs/spec.md), both from the one schema."""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.spec.schema import Spec
from trainer.families import FAMILIES
from trainer.shapes import model_options

_HEAD = """\
# Writing a spec

A sweep is one YAML file. Unknown keys are refused; `lacuna validate SPEC` lists every problem at once, each with its
line and what would be right. `examples/quickstart.yaml` is a whole one.

Editors complete and check the file with [spec.schema.json](spec.schema.json) (`lacuna schema` prints it).

The grid is the product of its axes, plus the cells in `extra`, minus those that match every value of an entry of
`exclude`. Scalars of `pruning`, `training` and `model` may be axes too: `pattern: [unstructured, "2:4"]`. A dense cell
(sparsity 0) is one cell, whatever the pattern or method.

N counts non-zero parameters: a cell's dense shape has N / (1 − S) weights, by the family's shape rule.
"""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the YAML file."""
    schema = Spec.model_json_schema()
    schema["title"] = "Lacuna sweep"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def markdown() -> str:
    """docs/spec.md."""
    lines = [_HEAD]
    for name, field in Spec.model_fields.items():
        part = field.annotation
        lines.append(f"## {name}\n")
        if not (isinstance(part, type) and issubclass(part, BaseModel)):
            lines.append(f"{field.description}\n")
            continue
        lines.append(f"{(part.__doc__ or '').strip().splitlines()[0]}\n")
        lines += ["| key | default | meaning |", "|---|---|---|", *_rows(part, ""), ""]
        if name == "model":
            lines += _families()
    return "\n".join(lines).rstrip() + "\n"


def _rows(part: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for name, field in part.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _rows(inner, f"{prefix}{name}.")
        else:
            rows.append(f"| `{prefix}{name}` | {_default(field)} | {field.description} |")
    return rows


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "–" if field.default in (None, "") else f"`{json.dumps(field.default)}`"


def _families() -> list[str]:
    lines = []
    for family in FAMILIES:
        options = [f"`{name}: {json.dumps(value)}`" for name, value in model_options(family).items()]
        lines.append(f"For `{family}` the shape rule takes, with these defaults: {', '.join(options)}.\n")
    return lines
