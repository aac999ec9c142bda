"""`lacuna pause|resume|cancel|retry SWEEP`: say what is wanted of a sweep; controllers act on it at checkpoints."""

from __future__ import annotations

import click

from orchestrator.command.facts import Change
from orchestrator.command.source import api_option, open_source


@click.command(name="pause")
@click.argument("sweep")
@api_option
def pause(sweep: str, api: str | None) -> None:
    """Pause SWEEP: what runs stops at a checkpoint within seconds; `lacuna resume` goes on from there.

    \b
      lacuna pause quickstart
    """
    _change(sweep, "pause", api)


@click.command(name="resume")
@click.argument("sweep")
@api_option
def resume(sweep: str, api: str | None) -> None:
    """Let SWEEP go on: a long-lived controller picks it up at once, else the next `lacuna run`.

    \b
      lacuna resume quickstart
    """
    _change(sweep, "resume", api)


@click.command(name="cancel")
@click.argument("sweep")
@api_option
def cancel(sweep: str, api: str | None) -> None:
    """End SWEEP. Completed runs and their law are kept; `lacuna resume` takes it up again.

    \b
      lacuna cancel quickstart
    """
    _change(sweep, "cancel", api)


@click.command(name="retry")
@click.argument("sweep")
@api_option
def retry(sweep: str, api: str | None) -> None:
    """Give the failed runs of SWEEP a new budget of attempts. Diverged runs stay: they would diverge again.

    \b
      lacuna runs quickstart --failed
      lacuna retry quickstart
    """
    with open_source(api) as source:
        runs = source.retry(sweep)
    click.echo(f"{runs} runs of {sweep} wait again" if runs else f"no run of {sweep} has failed")


def _change(sweep: str, what: Change, api: str | None) -> None:
    with open_source(api) as source:
        state = source.change(sweep, what)
    click.echo(f"{sweep} is {state}")
