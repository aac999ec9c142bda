"""`lacuna gc`: remove checkpoints that nobody needs, or show what would go."""

from __future__ import annotations

import click

from ledger.settings import Settings
from orchestrator.command.connection import ledger_engine
from orchestrator.command.output import console, print_json, size, table


@click.command(name="gc")
@click.option("--dry-run", is_flag=True, help="Show what would go and how much, and remove nothing.")
@click.option("--tips", is_flag=True, help="Also the final checkpoints of runs that have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(dry_run: bool, tips: bool, as_json: bool) -> None:
    """Remove the checkpoints that no run of an active or paused sweep still needs.

    Final checkpoints are kept unless --tips is given. Results, metrics and laws are never touched; should a later
    sweep need a state that was removed, it is trained again, to the same bits.

    \b
      lacuna gc --dry-run
    """
    from orchestrator.controller import garbage

    settings = Settings.from_environment()
    with ledger_engine(settings) as engine:
        work = garbage.find if dry_run else garbage.collect
        found = work(engine, settings, tips=tips)
    if as_json:
        items = [{"url": item.url, "bytes": item.size, "why": item.why} for item in found.items]
        print_json({"removed": not dry_run, "bytes": found.size, "items": items})
        return
    out = console()
    if found.items:
        rows = [(size(item.size), item.why, item.url) for item in found.items]
        out.print(table([">size", "why", "checkpoint"], rows))
    out.print(f"{len(found.items)} checkpoints, {size(found.size)} {'would go' if dry_run else 'removed'}")
