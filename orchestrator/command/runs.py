"""`lacuna runs SWEEP`: its runs, with their losses or the reason why there is none."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.command.output import console, count, figure, percent, print_json, table
from orchestrator.command.source import api_option, open_source


@click.command(name="runs")
@click.argument("sweep")
@click.option("--failed", is_flag=True, help="Only attempts that did not complete, with their reasons.")
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(sweep: str, failed: bool, api: str | None, as_json: bool) -> None:
    """List the runs of SWEEP in the grid's order.

    \b
      lacuna runs quickstart
      lacuna runs quickstart --failed
    """
    with open_source(api) as source:
        attempts = source.failed_attempts(sweep) if failed else []
        rows = [] if failed else source.runs(sweep)
    if as_json:
        print_json({"sweep": sweep, "attempts": attempts} if failed else {"sweep": sweep, "runs": rows})
    elif failed:
        _show_attempts(attempts)
    else:
        heads = ["run", ">S", ">N", ">D", ">steps", "method", "state", ">loss"]
        console().print(table(heads, [_line(row) for row in rows]))


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    state = str(row["state"])
    if state == "running" and row["step"] is not None:
        state = f"running, step {row['step']}"
    return (
        row["name"],
        percent(row["sparsity"]),
        count(row["nonzero_params"]),
        count(row["data"]),
        "–" if row["steps"] is None else str(row["steps"]),
        row["method"] or "–",
        state,
        figure(row["loss"], 5),
    )


def _show_attempts(attempts: list[dict[str, Any]]) -> None:
    if not attempts:
        click.echo("no attempt failed")
        return
    out = console()
    for attempt in attempts:
        behind = attempt["runs"][0] + (
            f" and {len(attempt['runs']) - 1} more" if len(attempt["runs"]) > 1 else ""
        )
        kind = f" ({attempt['kind']})" if attempt.get("kind") else ""
        out.print(
            f"attempt {attempt['attempt']}: {attempt['state']}{kind} at step {attempt['step']} on {attempt['worker']}, "
            f"behind {behind}",
            style="bold",
        )
        out.print(f"  {attempt['reason'] or 'no reason was recorded'}", markup=False)
