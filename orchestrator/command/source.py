"""Where a command's facts come from: this machine's ledger, or a service elsewhere (`--api URL`).

Both say the same in the same form, so a command is written once. What is computed from the facts (predictions, optima,
suggestions, tables) is computed here, by the same code, whoever supplied them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import click

from ledger.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from fitter.measurement import MeasuredCosts
    from ledger.progress import Progress
    from orchestrator.client import Event
    from orchestrator.submit import Submitted

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Change = Literal["pause", "resume", "cancel"]


class InputError(ValueError):
    """What the caller gave cannot be used; the message is the whole story."""


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


def api_option(function: Decorated) -> Decorated:
    """`--api URL`."""
    return click.option(
        "--api",
        metavar="URL",
        help="Ask the service there instead of this machine's ledger (also LACUNA_API_URL; its token: "
        "LACUNA_API_TOKEN).",
    )(function)


@contextmanager
def open_source(api: str | None, settings: Settings | None = None) -> Iterator[Source]:
    """The service at `api`, else at LACUNA_API_URL, else this environment's ledger."""
    settings = settings or Settings.from_environment()
    if api is not None:
        settings = replace(settings, api_url=api)
    if settings.api_url is not None:
        from orchestrator.client import Client
        from orchestrator.command.api_source import ApiSource

        with Client(settings.api_url, token=settings.api_token) as client:
            yield ApiSource(client)
        return
    from ledger.engine import open_ledger
    from orchestrator.command.ledger_source import LedgerSource

    engine = open_ledger(settings)
    try:
        yield LedgerSource(settings, engine)
    finally:
        engine.dispose()


#: Columns of a runs table that a fit looks at.
TABLE_COLUMNS = ("sparsity", "nonzero_params", "data", "loss", "family", "pattern", "method", "seed", "steps")


def runs_table(source: Source, sweep: str, group: str | None = None) -> pd.DataFrame:
    """The completed runs of a sweep, with TABLE_COLUMNS; of one group of them, where it is not None.

    The empty name is that of the first group. Raises UnknownGroup.
    """
    import pandas as pd

    rows = [row for row in source.runs(sweep) if row["state"] == "completed"]
    if group is not None:
        from fitter.groups import chosen

        groups = source.groups(sweep)
        if of := chosen(group, list(groups)):
            rows = [row for row in rows if row["position"] in groups[of]]
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def group_option(function: Decorated) -> Decorated:
    """`--group NAME`."""
    return click.option(
        "--group",
        metavar="NAME",
        help="Where the sweep mixes families, methods or patterns: whose law, such as 2:4. Default: the first of its "
        "grid.",
    )(function)


def objective_options(function: Decorated) -> Decorated:
    """`--residual log|raw --huber-delta D`."""
    function = click.option(
        "--huber-delta", type=float, default=1e-3, show_default=True, help="Huber threshold, in its units."
    )(function)
    return click.option(
        "--residual",
        type=click.Choice(["log", "raw"]),
        default="log",
        show_default=True,
        help="Kind of residual.",
    )(function)


def table_or_sweep(named: str, api: str | None, group: str | None = None) -> Any:
    """The runs of a file, or of the sweep of that name (or one group of them) where there is no such file."""
    from fitter.table import read

    if Path(named).is_file() or Path(named).suffix.lower() in (".csv", ".tsv", ".parquet", ".json", ".jsonl"):
        if group:
            raise InputError("--group goes with a sweep: filter the rows of a table")
        return read(named)
    with open_source(api) as source:
        return runs_table(source, named, group)


def no_law_yet(sweep: str, missing: list[str]) -> InputError:
    """That a sweep has no law yet, and what its completed runs lack."""
    return InputError("\n".join([f"{sweep} has no law yet:", *(f"  {line}" for line in missing)]))
