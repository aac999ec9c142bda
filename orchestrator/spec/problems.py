"""What is wrong with a spec: every problem at once, each with its place and what would be right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong in a spec."""

    path: str
    """Where, as a YAML path: `grid.sparsity[2]`; empty for the document itself."""

    message: str
    """What is wrong and what would be right."""

    value: Any = None
    """What stood there, as read; None where nothing did."""

    line: int | None = None
    """Line in the file, counted from 1; None where the text has no such place."""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        stood = "" if self.value is None else f" (found {_short(self.value)})"
        return f"{place}{self.path or 'the file'}: {self.message}{stood}"


class SpecError(ValueError):
    """A spec that cannot be run as it stands. `problems` has all that is wrong with it, in the file's order."""

    def __init__(self, problems: list[Problem], source: str = "spec") -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line or 0, problem.path))
        self.source = source
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in self.problems)]))

    def documents(self) -> list[dict[str, Any]]:
        """The problems as JSON-ready values: path, line, value, message."""
        return [asdict(problem) for problem in self.problems]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
