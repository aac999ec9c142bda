"""The law that a question is put to: a sweep's newest, or one in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.command.facts import InputError
from orchestrator.command.source import api_option, group_option, open_source

if TYPE_CHECKING:
    from fitter.law import Law

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def law_options(function: Decorated) -> Decorated:
    """`--sweep SWEEP [--group NAME] [--api URL] | --law FILE`."""
    function = api_option(group_option(function))
    function = click.option(
        "--law",
        "law_file",
        type=click.Path(path_type=Path),
        help="A law document, as `lacuna law --json` or `lacuna fit --json` prints it.",
    )(function)
    return click.option("--sweep", help="A sweep; its newest law is asked.")(function)


def chosen_law(sweep: str | None, law_file: Path | None, group: str | None, api: str | None) -> Law:
    """The law that the options name. Raises InputError, LedgerError, ClientError, DocumentError."""
    from fitter.law import Law

    if (sweep is None) == (law_file is None):
        raise InputError("give either --sweep SWEEP or --law FILE")
    if group is not None and sweep is None:
        raise InputError("--group goes with --sweep: a file has one law")
    if law_file is not None:
        try:
            return Law.load(law_file)
        except OSError as error:
            raise InputError(f"{law_file} cannot be read: {error.strerror or error}") from None
    assert sweep is not None
    with open_source(api) as source:
        document = source.law(sweep, group)
    if group is None and document.get("group"):
        click.echo(f"the law of group {document['group']}; --group chooses another", err=True)
    return Law.from_document(document)
