"""`lacuna controller`: a controller that stays, for the sweeps that others submit."""

from __future__ import annotations

import logging
import sys

import click

from ledger.settings import Settings


@click.command(name="controller")
@click.option(
    "--max-concurrent", type=click.IntRange(min=1), help="Runs at a time in a pool; default: its room."
)
def command(max_concurrent: int | None) -> None:
    """Carry out every active sweep in the ledger until told to stop (Ctrl-C, SIGTERM): workers then stop at a
    checkpoint.

    Sweeps of higher `execution.priority` come first, equal ones take turns. Any number may run on one ledger: one
    leads, and when it dies another takes over within seconds. `lacuna run` beside it hands its sweep over and follows.

    \b
      lacuna controller
      lacuna submit examples/quickstart.yaml
    """
    from orchestrator import controller

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    outcome = controller.run(Settings.from_environment(), None, max_concurrent=max_concurrent)
    waiting = sum(sweep.state == "active" for sweep in outcome.sweeps)
    click.echo(
        f"stopped at checkpoints; {waiting} of {len(outcome.sweeps)} sweeps go on with the next controller"
    )
