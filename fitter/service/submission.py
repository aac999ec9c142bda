"""What the service needs of whoever can plan a sweep, as types only.

Imports run one way (orchestrator → fitter), so planning is passed in when the application is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class SubmitResult:
    """A sweep that is now in the ledger."""

    name: str
    outcome: Literal["created", "extended", "unchanged"]
    """`extended`: a sweep of this name was there and its grid grew; `unchanged`: with the same content."""
    runs_added: int = 0
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def created(self) -> bool:
        """Whether the sweep is new."""
        return self.outcome == "created"


class SubmitError(Exception):
    """A spec that was refused.

    Attributes:
        problems: one entry for each problem: `path`, `line`, `value`, `message` (what would be right).
        conflict: True where the name is taken by a sweep with another content.
    """

    def __init__(self, problems: Sequence[dict[str, Any]], *, conflict: bool = False) -> None:
        self.problems = list(problems)
        self.conflict = conflict
        super().__init__("; ".join(str(problem.get("message", problem)) for problem in self.problems))


#: (the body as it was sent, its media type) → what became of it. Raises SubmitError.
Submit = Callable[[bytes, str], SubmitResult]


#: Told the name of a sweep into which runs were imported; returns at once.
AfterImport = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Links:
    """Where else to look. Every address is optional: what is not there is not linked to."""

    mlflow: str | None = None
    """Root of the MLflow UI, without a trailing slash."""
    notice: str | None = None
    """One sentence shown on the page, such as why there is no MLflow."""
