"""Where a command's facts come from: this machine's ledger, or a service elsewhere (`--api URL`).

Both say the same in the same form, so a command is written once. What is computed from the facts (predictions, optima,
suggestions, tables) is computed here, by the same code, whoever supplied them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ledger.settings import Settings
from orchestrator.command.facts import InputError, Source

if TYPE_CHECKING:
    import pandas as pd

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


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
