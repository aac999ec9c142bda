"""`lacuna fit TABLE`: fit a scaling law to a runs table or to a sweep."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.command.source import api_option, group_option, objective_options, table_or_sweep

if TYPE_CHECKING:
    from fitter.law import Law


def refuse(error: Exception) -> None:
    """Say what was wrong with the input and leave with exit code 2."""
    click.echo(f"Error: {error}", err=True)
    sys.exit(2)


@click.command()
@click.argument("table")
@click.option("--form", default="sparsity", show_default=True, help="Law form.")
@objective_options
@click.option("--level", type=float, default=0.9, show_default=True, help="Probability of the intervals.")
@click.option(
    "--base", type=click.Path(exists=True, dir_okay=False), help="Law file that a transfer form keeps."
)
@click.option("--out", type=click.Path(dir_okay=False), help="Also write the law document to this file.")
@group_option
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(
    table: str,
    form: str,
    residual: str,
    huber_delta: float,
    level: float,
    base: str | None,
    out: str | None,
    group: str | None,
    api: str | None,
    as_json: bool,
) -> None:
    """Fit a scaling law to TABLE: a CSV, Parquet or JSON file, or the name of a sweep.

    \b
      lacuna fit runs.csv
      lacuna fit quickstart --form chinchilla --json
    """
    import fitter
    from fitter.errors import FitError

    try:
        law = fitter.fit(
            table_or_sweep(table, api, group),
            form=form,
            residual="raw" if residual == "raw" else "log",
            huber_delta=huber_delta,
            level=level,
            base=fitter.Law.load(base) if base else None,
        )
    except FitError as error:
        refuse(error)
        return
    if out:
        law.save(out)
    click.echo(law.to_json() if as_json else describe(law))


def describe(law: Law) -> str:
    """The law as text for a terminal."""
    percent = f"{law.level:.0%}"
    units = law.definitions.get("units", {})
    lines = [
        f"{law.form}   {law.definitions.get('formula', '')}",
        f"{law.runs} runs, mean Huber {law.objective:.5g} "
        f"({law.settings['residual']} residuals, delta {law.settings['huber_delta']:g})",
        "",
        f"{'':6} {'value':>12}   {percent} interval",
    ]
    for name, value in law.coefficients.items():
        interval = law.intervals.get(name)
        if interval is None:
            shown = ""
        elif interval["low"] is None or interval["high"] is None:
            shown = "not identified by these runs"
        else:
            shown = f"{interval['low']:.5g} to {interval['high']:.5g}"
        lines.append(f"{name:6} {value:12.6g}   {shown:28} {units.get(name, '')}".rstrip())
    if law.gain:
        lines += ["", f"{'sparsity':>8} {'gain':>7}   {percent} interval"]
        lines += [
            f"{sparsity:>8} {_times(gain['value']):>7}   {_times(gain['low'])} to {_times(gain['high'])}"
            for sparsity, gain in law.gain.items()
        ]
    return "\n".join([*lines, "", *_remarks(law)]).rstrip()


def _times(gain: float | None) -> str:
    return "unknown" if gain is None else f"{gain:.2f}x"


def _remarks(law: Law) -> list[str]:
    """What a reader must know before using the numbers."""
    diagnostics = law.diagnostics
    basins = diagnostics["basins"]
    remarks = [f"{basins['reached_optimum']} of {basins['starts']} starts reached this optimum"]
    if not diagnostics["converged"]:
        remarks.append("the polish did not converge: treat all numbers with care")
    remarks += [f"weak: {sentence}" for sentence in diagnostics["identifiability"]["weak"]]
    if diagnostics["at_bound"]:
        remarks.append(f"at a bound: {', '.join(diagnostics['at_bound'])}")
    remarks += [
        f"mixed: {len(values)} values of {name} ({', '.join(values[:4])}) share one set of coefficients"
        for name, values in diagnostics["mixed"].items()
    ]
    outliers = diagnostics["outliers"]
    if outliers:
        rows = ", ".join(str(outlier["row"]) for outlier in outliers[:8])
        remarks.append(f"{len(outliers)} runs far from the law: rows {rows}")
    return remarks
