"""`lacuna migrate`: bring the ledger's tables to this version, before anything else of it starts."""

from __future__ import annotations

import time

import click

from ledger.errors import LedgerError
from ledger.settings import Settings

#: Seconds between two looks at a database that does not answer yet.
PAUSE_SECONDS = 2.0


@click.command(name="migrate")
@click.option(
    "--wait",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seconds to wait for a database that does not answer yet.",
)
@click.option("--check", is_flag=True, help="Change nothing; fail where the tables are not this version's.")
@click.option("--with-tracking", is_flag=True, help="Also create MLflow's database beside the ledger's.")
def command(wait: int, check: bool, with_tracking: bool) -> None:
    """Bring the ledger's tables to this version, under a lock: of many that start together, one migrates.

    Every command does so by itself; this is for a step of its own before an upgrade. Tables of a newer version are left
    alone and refused.

    \b
      lacuna migrate --wait 300
    """
    from ledger.engine import connect, ledger_url
    from ledger.migrations import HEAD, current_revision, migrate

    settings = Settings.from_environment()
    deadline = time.monotonic() + wait
    while True:
        try:
            engine = connect(ledger_url(settings), pool_size=2)
            break
        except LedgerError as error:
            if time.monotonic() >= deadline:
                raise
            click.echo(str(error), err=True)
            time.sleep(PAUSE_SECONDS)
    before = current_revision(engine)
    if check:
        if before != HEAD:
            raise click.ClickException(
                f"the tables are of revision {before or 'none'}, this version's are {HEAD}"
            )
        click.echo(f"the tables are of revision {HEAD}")
        return
    migrate(engine)
    click.echo(
        f"the tables are of revision {HEAD}" + ("" if before == HEAD else f" (before: {before or 'none'})")
    )
    if with_tracking:
        from orchestrator.tracking.store import tracking_uri

        tracking_uri(settings)
        click.echo("MLflow has a database")
