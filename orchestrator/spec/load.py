"""From a YAML text to a spec, or to every problem it has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from orchestrator.spec.cells import POINT, VARIED, Cell, cells
from orchestrator.spec.document import Document, read
from orchestrator.spec.problems import Problem, SpecError
from orchestrator.spec.schema import ModelSpec, Spec
from trainer.data.source import LOCAL_KINDS
from trainer.errors import ShapeError
from trainer.pruning.rules import misfits
from trainer.shapes import model_options

if TYPE_CHECKING:
    from orchestrator.pools import Pools  # which reads its file with this package


def load_spec_file(path: Path, pools: Pools | None = None) -> Spec:
    """The spec in a file. Raises SpecError with all that is wrong, a file that cannot be read included."""
    try:
        text = path.read_bytes()
    except OSError as error:
        problem = Problem(path="", message=f"cannot be read: {error.strerror or error}")
        raise SpecError([problem], str(path)) from None
    return load_spec(text, str(path), pools)


def load_spec(text: str | bytes, source: str = "spec", pools: Pools | None = None) -> Spec:
    """The spec in a YAML text, checked whole. Raises SpecError with every problem, path and line.

    `pools`: those that `execution.pool` may name; None: not checked here.
    """
    document = read(text, source)
    if not isinstance(document.value, dict):
        message = "must be a mapping that begins with `name:`"
        raise SpecError([Problem(path="", message=message, line=1)], source)
    # What the types cannot say is checked on the values as they stand, so that it is told along with the rest.
    problems = (
        _model_problems(document.value) + _data_problems(document.value) + _axis_problems(document.value)
    )
    try:
        spec = Spec.model_validate(document.value)
    except ValidationError as error:
        raise SpecError(_located(_readable(error) + problems, document), source) from None
    if not problems:
        found, problems = cells(spec)
        problems = problems + _shape_problems(spec, found)
    if pools is not None:
        problems = problems + _pool_problems(spec, pools)
    if problems:
        raise SpecError(_located(problems, document), source)
    return spec


def _pool_problems(spec: Spec, pools: Pools) -> list[Problem]:
    from orchestrator.pools import PoolError

    name = spec.execution.pool
    try:
        pools.check(name, spec.execution.device, spec.execution.devices_per_run)
    except PoolError as error:
        return [Problem(path="execution.pool", message=str(error), value=name)]
    return []


def _located(problems: list[Problem], document: Document) -> list[Problem]:
    return [
        Problem(path=p.path, message=p.message, value=p.value, line=p.line or document.line(p.path))
        for p in problems
    ]


def _readable(error: ValidationError) -> list[Problem]:
    problems = []
    for item in error.errors(include_url=False):
        path = ""
        for part in item["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        value: Any = item["input"]
        message = str(item["msg"]).replace("Input should be", "must be")
        if item["type"] == "missing":
            message, value = "is missing and has no default", None
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
        elif item["type"] == "extra_forbidden":
            message = f"unknown key: {_nearest(item['loc'])}"
        elif item["type"] == "string_pattern_mismatch" and path == "name":
            message = "must be 1 to 63 lower-case letters, digits, dots, dashes and underscores"
        elif isinstance(value, dict | list) and len(str(value)) > 80:
            value = None
        problems.append(Problem(path=path, message=message, value=value))
    return problems


def _nearest(location: tuple[int | str, ...]) -> str:
    model: Any = Spec
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return _right(str(location[-1]), getattr(model, "model_fields", {}))


def _part(value: dict[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _options(value: dict[str, Any]) -> dict[str, Any] | None:
    """The family's model options with their defaults; None where the spec names no family that exists."""
    try:
        return model_options(str(_part(value, "model").get("family")))
    except ShapeError:
        return None


def _model_problems(value: dict[str, Any]) -> list[Problem]:
    options = _options(value)
    problems = []
    for name, given in _part(value, "model").items():
        if options is None or name in ModelSpec.model_fields:
            continue
        if name not in options:
            message = f"unknown key: {_right(name, options)}"
            problems.append(Problem(path=f"model.{name}", message=message))
        elif not _same_kind(given, options[name]):
            message = f"must be {_kind(options[name])}"
            problems.append(Problem(path=f"model.{name}", message=message, value=given))
    return problems


def _axis_problems(value: dict[str, Any]) -> list[Problem]:
    """Axes and keys of extra or excluded cells that name nothing."""
    options = _options(value)
    if options is None:
        return []
    allowed = {*POINT, *VARIED, *(name for name, default in options.items() if not isinstance(default, list))}
    grid = _part(value, "grid")
    named = [(f"grid.{name}", name) for name in grid if name not in ("extra", "exclude")]
    for section in ("extra", "exclude"):
        entries = grid.get(section) if isinstance(grid.get(section), list) else []
        for index, entry in enumerate(entries or []):
            names = entry if isinstance(entry, dict) else {}
            named += [(f"grid.{section}[{index}].{name}", name) for name in names]
    return [
        Problem(path=path, message=f"unknown axis: {_right(name, allowed)}")
        for path, name in named
        if name not in allowed
    ]


def _right(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(sorted(known))}"


def _same_kind(value: Any, default: Any) -> bool:
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and value > 0
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _kind(default: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a whole number of at least 1",
        float: "a number",
        str: "text",
        list: "a list",
    }
    return kinds.get(type(default), type(default).__name__)


def _data_problems(value: dict[str, Any]) -> list[Problem]:
    """A source that is plainly a path must exist; a `datasets` id is looked up when it is prepared."""
    problems = []
    data = _part(value, "data")
    named = [(name, data.get(name)) for name in ("source", "tokenizer")]
    for name, given in [*named, ("then.source", _part(data, "then").get("source"))]:
        if not isinstance(given, str):
            continue
        looks_local = given.startswith(("/", "./", "../", "~")) or (
            name != "tokenizer" and given.endswith(tuple(LOCAL_KINDS))
        )
        if looks_local and not Path(given).expanduser().exists():
            library = "transformers" if name == "tokenizer" else "datasets"
            message = f"there is no such file or folder here: give a path that exists, or a `{library}` id"
            problems.append(Problem(path=f"data.{name}", message=message, value=given))
    return problems


def _shape_problems(spec: Spec, found: list[Cell]) -> list[Problem]:
    """Sizes that no shape reaches, and shapes that a pattern's groups do not divide; each said once."""
    problems: dict[tuple[str, str], Problem] = {}
    looked_at: set[tuple[float, float, ModelSpec, str]] = set()
    for cell in found:
        dense = cell.nonzero_params / (1 - cell.sparsity)
        pattern = cell.pruning.pattern if cell.sparsity else "unstructured"
        case = (dense, cell.sparsity, cell.model, pattern)
        if case in looked_at:
            continue
        looked_at.add(case)
        sizes = spec.grid.nonzero_params
        listed = cell.place == "grid" and cell.nonzero_params in sizes
        path = f"grid.nonzero_params[{sizes.index(cell.nonzero_params)}]" if listed else cell.place
        for message in _misfits(cell, pattern):
            whole = f"at sparsity {cell.sparsity:g} {message}"
            problems.setdefault((path, whole), Problem(path=path, message=whole, value=cell.nonzero_params))
    return list(problems.values())


def _misfits(cell: Cell, pattern: str) -> list[str]:
    try:
        shape = cell.shape()
    except ShapeError as error:
        return [f"no shape fits: {error}"]
    return misfits(cell.model.family, shape.dims, pattern, cell.sparsity)
