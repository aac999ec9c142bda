"""What can go wrong in a fit, each kind its own class.

Every message says what was wrong, where, and what would be right.
"""

from __future__ import annotations

from collections.abc import Sequence


class FitError(Exception):
    """Base of all errors that the fitter raises on purpose."""


class TableError(FitError):
    """The runs table cannot be used. Carries every problem found, not only the first.

    Attributes:
        problems: one sentence for each problem, rows named (row 1 is the first row of data).
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = "the runs table has a problem" if count == 1 else f"the runs table has {count} problems"
        super().__init__(head + ":\n" + "\n".join(f"  - {problem}" for problem in self.problems))


class NotIdentifiedError(FitError):
    """The table is sound but too narrow for the law form.

    Attributes:
        missing: one sentence for each thing that is missing, with the runs that would supply it.
    """

    def __init__(self, form: str, missing: Sequence[str]) -> None:
        self.form = form
        self.missing = list(missing)
        super().__init__(
            f"these runs cannot identify the law '{form}':\n"
            + "\n".join(f"  - {sentence}" for sentence in self.missing)
        )


class SettingError(FitError, ValueError):
    """An argument of a fit or a question to a law is out of range or unknown."""


class DocumentError(FitError, ValueError):
    """A stored law document is incomplete or of another kind."""
