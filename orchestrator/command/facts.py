"""What commands ask of a sweep, whoever answers: `Source`, and how one says that it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from fitter.measurement import MeasuredCosts
    from ledger.progress import Progress
    from orchestrator.client import Event
    from orchestrator.submit import Submitted

Change = Literal["pause", "resume", "cancel"]


class InputError(ValueError):
    """What the caller gave cannot be used; the message is the whole story."""


def no_law_yet(sweep: str, missing: list[str]) -> InputError:
    """That a sweep has no law yet, and what it waits for."""
    return InputError("\n".join([f"{sweep} has no law yet:", *(f"  {line}" for line in missing)]))


class Source(Protocol):
    """Facts about sweeps, and changes to them. Every method raises LedgerError or ClientError where nobody answers,
    or there is no sweep of that name."""

    def sweeps(self) -> list[dict[str, Any]]:
        """Newest first: name, state, created_at, runs by state, `total`, best_loss, eta_seconds."""
        ...

    def progress(self, sweep: str) -> Progress:
        """How far a sweep is."""
        ...

    def plan(self, sweep: str) -> dict[str, Any]:
        """What was planned at its submission; `adaptive` says how an adaptive sweep stands."""
        ...

    def law_summary(self, sweep: str) -> tuple[dict[str, Any] | None, list[str]]:
        """(version, runs, created_at and, where there are several, group) of its newest law, or None and what the
        completed runs lack for one."""
        ...

    def groups(self, sweep: str) -> dict[str, frozenset[int]]:
        """Where it has a law for each of several groups of runs: their names, the default first, with the positions of
        their runs. Empty where one law describes all runs."""
        ...

    def law(self, sweep: str, group: str | None = None) -> dict[str, Any]:
        """The newest law of that group of its runs, as REST returns it. Raises InputError where there is none yet, with
        what is missing."""
        ...

    def mlflow(self, sweep: str) -> str | None:
        """Where MLflow shows it, if a service says so."""
        ...

    def runs(self, sweep: str) -> list[dict[str, Any]]:
        """Its runs in grid order: the columns of a runs table, state, name, step, reason and the rest of the cell."""
        ...

    def failed_attempts(self, sweep: str) -> list[dict[str, Any]]:
        """Its attempts that did not complete, newest first."""
        ...

    def costs(self, sweep: str, group: str | None = None) -> MeasuredCosts:
        """Measured training cost of a group's runs by sparsity. Raises SettingError or Refused where they have no
        times."""
        ...

    def change(self, sweep: str, what: Change) -> str:
        """Pause, resume or cancel it; the state it then has."""
        ...

    def retry(self, sweep: str) -> int:
        """Give its failed runs a new budget; how many."""
        ...

    def submit(self, text: bytes, source: str, on_preparing: Callable[[int], None]) -> Submitted:
        """Check, plan and store a spec. Raises SpecError, SweepExists, DataError or Refused."""
        ...

    def import_runs(self, sweep: str, table: Path, law: Mapping[str, Any]) -> dict[str, Any]:
        """Import the finished runs of a file and fit. `law`: form, residual, huber_delta, level of a new sweep.
        created, added, unchanged, law_version, missing. Raises TableError, SettingError, SweepExists or Refused."""
        ...

    def events(self, sweep: str) -> Iterator[Event]:
        """What happens to it, as it happens, without end: first `progress`, then that, `run` and `law`."""
        ...
