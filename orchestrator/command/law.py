"""`lacuna law SWEEP`: coefficients, gain and optimal sparsity, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.command.facts import Source
from orchestrator.command.output import console, figure, percent, print_json, span, table
from orchestrator.command.source import api_option, group_option, open_source, runs_table


@click.command(name="law")
@click.argument("sweep")
@click.option("--json", "as_json", is_flag=True, help="Print the law document, which `--law FILE` reads.")
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also draw its figures into this folder (SVG).",
)
@group_option
@api_option
def command(sweep: str, as_json: bool, figures: Path | None, group: str | None, api: str | None) -> None:
    """Print the newest law of SWEEP, or of one group of its runs.

    \b
      lacuna law quickstart
      lacuna law methods --group 2:4
      lacuna law quickstart --json > law.json
      lacuna law quickstart --figures figures/
    """
    with open_source(api) as source:
        document = source.law(sweep, group)
        others = other_groups(source, document)
        shown_at = None if as_json else source.mlflow(sweep)
        if figures is not None:
            _draw(source, document, figures)
    if as_json:
        print_json(document)
    else:
        show_law(document, others)
        if shown_at is not None:
            console().print(f"MLflow: {shown_at}", markup=False, soft_wrap=True)


def _draw(source: Source, document: dict[str, Any], folder: Path) -> None:
    from fitter.figures import save
    from fitter.law import Law
    from orchestrator.tracking.plots import figures

    folder.mkdir(parents=True, exist_ok=True)
    law = Law.from_document(document)
    for name, drawn in figures(law, runs_table(source, document["sweep"], document.get("group"))):
        save(drawn, folder / f"{name}.svg")


def other_groups(source: Source, document: dict[str, Any]) -> list[str]:
    """The groups of runs that have other laws in the sweep of this one."""
    if "group" not in document:
        return []
    return [name for name in source.groups(document["sweep"]) if name != document["group"]]


def show_law(document: dict[str, Any], others: Sequence[str] = ()) -> None:
    """The law as tables. `others`: groups of the sweep's runs that have laws of their own."""
    from fitter.forms import get_form

    out = console()
    settings = document.get("settings", {})
    level = next((interval["level"] for interval in document["intervals"].values()), 0.9)
    version = f", version {document['version']}" if "version" in document else ""
    group = f", group {document['group']}" if document.get("group") else ""
    residual = settings.get("residual", "log")
    error = document["diagnostics"].get("log_rmse")
    out.print(
        f"law of {document.get('sweep', 'the table')}{group}{version}: {document['form']}, {document['runs']} runs, "
        f"mean Huber loss {figure(document['objective'])} on {residual} residuals"
        + (f", log-RMSE {percent(round(error, 5))}" if error is not None else "")
    )
    out.print("L(S, N, D) = (a_S (1 − S)^b_S + c_S) N^(−b_N) + (a_D / D)^b_D + c", style="dim")
    rows = []
    # As the law's formula has them: Postgres keeps no order in what it stores.
    for name in get_form(document["form"]).names:
        value = document["coefficients"][name]
        interval = document["intervals"].get(name, {})
        identified = interval.get("identified", True)
        bounds = span(interval.get("low"), interval.get("high")) if identified else "not identified"
        rows.append((name, figure(value), bounds))
    out.print(table(["coefficient", ">value", f"{100 * level:g} % interval"], rows))
    gains = [
        (
            percent(float(sparsity)),
            "unbounded" if gain["value"] is None else f"{figure(gain['value'], 3)}×",
            span(gain.get("low"), gain.get("high"), 3),
        )
        for sparsity, gain in document["gain"].items()
    ]
    if gains:
        out.print()
        out.print(table(["sparsity", ">gain", f"{100 * level:g} % interval"], gains))
        out.print("gain: how many times larger a dense model of equal loss would be", style="dim")
    if others:
        out.print(f"other groups of this sweep (--group): {', '.join(others)}", markup=False)
