"""A YAML text as plain values, with the line of every value.

Only the safe subset of YAML is read: scalars, lists and mappings. Limits on size, depth and aliases keep a hostile
file from costing more than its length. Numbers follow YAML 1.2: `1e6` and `1.33e6` are floats (YAML 1.1 reads text).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.spec.problems import Problem, SpecError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_ALIASES = 100


@dataclass(frozen=True)
class Document:
    """Plain values and the line (from 1) of each path."""

    value: Any
    lines: dict[str, int]

    def line(self, path: str) -> int | None:
        """The line of a path, or of the nearest thing around it that is written in the text."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = re.sub(r"(\.[^.\[\]]+|\[\d+\]|^[^.\[\]]+)$", "", path)
        return None


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's floats."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def read(text: str | bytes, source: str = "spec") -> Document:
    """Read a YAML text. Raises SpecError where it is not YAML, too large, too deep, or repeats a key."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SpecError([Problem(path="", message=f"not UTF-8 text: {error}")], source) from None
    if len(text) > MAX_BYTES:
        message = f"{len(text):,} characters long: a spec may have up to {MAX_BYTES:,}"
        raise SpecError([Problem(path="", message=message)], source)
    try:
        _refuse_excess(text, source)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise SpecError([Problem(path="", message="is empty: a spec begins with `name:`")], source)
            walk = _Walk(loader)
            value = walk.value(node, "", 0)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context}"
        line = mark.line + 1 if mark else None
        raise SpecError([Problem(path="", message=message, line=line)], source) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError([Problem(path="", message=f"not YAML: {error}")], source) from None
    if walk.problems:
        raise SpecError(walk.problems, source)
    return Document(value, walk.lines)


def _refuse_excess(text: str, source: str) -> None:
    """Raise SpecError at the first level too deep or alias too many.

    Read event by event, before anything is built: the reader's own time grows with the square of the depth.
    """
    depth = aliases = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        aliases += isinstance(event, yaml.AliasEvent)
        message = f"nested deeper than {MAX_DEPTH}: no spec needs that" if depth > MAX_DEPTH else ""
        message = message or (
            f"over {MAX_ALIASES} aliases: no spec needs that" if aliases > MAX_ALIASES else ""
        )
        if message:
            line = event.start_mark.line + 1 if event.start_mark else None
            raise SpecError([Problem(path="", message=message, line=line)], source)


class _Walk:
    """Builds plain values from nodes, noting lines and refusing what no spec needs."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.nodes += 1
        # Aliases may fan out: the limit is on what the text stands for, not on how long it is.
        if depth > MAX_DEPTH or self.nodes > 200_000:
            limit = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else "stands for too many values"
            raise SpecError([Problem(path=path[:200], message=f"{limit}: no spec needs that", line=line)])
        if node.tag not in _PLAIN_TAGS:
            message = f"has the tag {node.tag}: only plain text, numbers, true/false, null, lists and mappings are read"
            self.problems.append(Problem(path=path, message=message, line=line))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                message = "a key must be plain text"
                self.problems.append(Problem(path=path, message=message, line=line))
                continue
            key = str(key_node.value)
            place = f"{path}.{key}" if path else key
            if key in result:
                message = f"stands twice (first in line {self.lines[place]}): keep one"
                self.problems.append(Problem(path=place, message=message, line=line))
                continue
            self.lines[place] = line
            result[key] = self.value(value_node, place, depth + 1)
        return result


_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
