"""`lacuna status SWEEP`: how far it is, how long it will take, and what the law lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from ledger.progress import Progress
from orchestrator.command.output import console, duration, figure, flops, percent, print_json, table
from orchestrator.command.source import api_option, open_source


@click.command(name="status")
@click.argument("sweep")
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(sweep: str, api: str | None, as_json: bool) -> None:
    """Show how far SWEEP is.

    \b
      lacuna status quickstart
    """
    with open_source(api) as source:
        state = source.progress(sweep)
        law, missing = source.law_summary(sweep)
        adaptive = source.plan(sweep).get("adaptive")
    if as_json:
        print_json({**asdict(state), "law": law, "missing": missing, "adaptive": adaptive})
        return
    out = console()
    rows = rows_of(state) + ([("adaptive", adaptive_line(adaptive))] if adaptive else [])
    out.print(table(["", ""], rows))
    if law is None:
        out.print("law: not fitted yet; what is missing:")
        for line in missing:
            out.print(f"  {line}", markup=False)
    else:
        of = f" of {law['group']}" if "group" in law else ""
        out.print(f"law{of}: version {law['version']}, from {law['runs']} runs (`lacuna law {sweep}`)")


def rows_of(state: Progress) -> list[tuple[str, str]]:
    """Progress as lines of a table."""
    rows = [
        ("sweep", f"{state.sweep}, {state.state}"),
        (
            "runs",
            f"{state.completed} of {state.total} done, {state.running} running, {state.pending} waiting",
        ),
        (
            "segments",
            f"{state.segments_done} of {state.segments_total} done, {state.segments_running} running",
        ),
        ("best loss", f"{figure(state.best_loss)} ({state.best_run or 'none yet'})"),
        ("time left", duration(state.eta_seconds)),
    ]
    if state.failed or state.diverged:
        rows.insert(
            2,
            ("", f"{state.failed} failed, {state.diverged} diverged (`lacuna runs {state.sweep} --failed`)"),
        )
    if state.steps_alone:
        saved = percent(round(1 - state.steps_total / state.steps_alone, 3))
        rows.append(
            ("shared", f"{state.segments_shared} segments serve several runs; {saved} of the steps are saved")
        )
    return rows


def adaptive_line(standing: Mapping[str, Any]) -> str:
    """How an adaptive sweep stands: cells chosen, FLOPs of its budget, interval reached, and why it stopped."""
    budget, wanted, reached = (standing[name] for name in ("budget_flops", "wanted_interval", "interval"))
    parts = [f"{standing['chosen']} of {standing['cells']} cells chosen, {flops(standing['flops'])}"]
    parts[0] += f" of {flops(budget)}" if budget else ""
    if reached is not None:
        parts.append(f"interval ±{reached:.2%}" + (f" (wanted ±{wanted:.2%})" if wanted else ""))
    parts.append(f"chooses no more: {standing['stopped']}" if standing["stopped"] else "chooses on")
    return "; ".join(parts)
