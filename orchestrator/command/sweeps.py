"""`lacuna sweeps`: what there is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from orchestrator.command.output import console, duration, figure, print_json, table
from orchestrator.command.source import api_option, open_source


@click.command(name="sweeps")
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(api: str | None, as_json: bool) -> None:
    """List the sweeps, newest first.

    \b
      lacuna sweeps
      lacuna sweeps --api http://gpu-box:8321
    """
    with open_source(api) as source:
        documents = source.sweeps()
    if as_json:
        print_json({"sweeps": documents})
        return
    if not documents:
        click.echo("no sweeps yet: `lacuna run examples/quickstart.yaml` makes one")
        return
    heads = ["sweep", "state", ">done", ">running", ">failed", ">best loss", ">time left", "submitted"]
    console().print(table(heads, [_line(entry) for entry in documents]))


def _line(entry: dict[str, Any]) -> tuple[str, ...]:
    submitted: datetime = entry["created_at"]
    return (
        entry["name"],
        entry["state"],
        f"{entry['completed']}/{entry['total']}",
        str(entry["running"]),
        str(entry["failed"] + entry["diverged"]),
        figure(entry["best_loss"]),
        duration(entry["eta_seconds"]),
        f"{submitted.astimezone():%Y-%m-%d %H:%M}",
    )
