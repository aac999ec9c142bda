"""`lacuna suggest SWEEP`: which runs to do next, and what they are worth."""

from __future__ import annotations

import click

from orchestrator.command.output import console, count, flops, percent, print_json, table
from orchestrator.command.source import api_option, group_option, table_or_sweep


@click.command(name="suggest")
@click.argument("sweep")
@click.option(
    "--flops", "-F", "spend", type=float, required=True, help="FLOPs that the new runs may cost in all."
)
@click.option("--params", "-N", type=float, help="Non-zero parameters of the model that you mean to train …")
@click.option("--budget", "-C", type=float, help="… and its training FLOPs: pin its optimal sparsity down.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=16, show_default=True, help="At most so many runs."
)
@group_option
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    sweep: str,
    spend: float,
    params: float | None,
    budget: float | None,
    limit: int,
    group: str | None,
    api: str | None,
    as_json: bool,
) -> None:
    """Suggest the next runs of SWEEP (or of a table): those that teach most per FLOP.

    They narrow the law where it is least known; with --params and --budget, the optimal sparsity of that model.

    \b
      lacuna suggest quickstart --flops 1e13
      lacuna suggest quickstart --flops 1e13 --params 1e6 --budget 1e15
    """
    import fitter

    plan = fitter.suggest(
        table_or_sweep(sweep, api, group or ""),
        flops=spend,
        target="law" if params is None and budget is None else "optimum",
        nonzero_params=params,
        budget=budget,
        limit=limit,
    )
    if as_json:
        print_json(plan.document())
        return
    rows = [
        (
            percent(run.sparsity),
            count(run.nonzero_params),
            count(run.data),
            flops(run.flops),
            percent(round(run.reduction, 3)),
        )
        for run in plan.runs
    ]
    out = console()
    heads = [">sparsity", ">N", ">D", ">cost", ">less variance"]
    out.print(table(heads, rows) if rows else "no run that this budget buys teaches anything more")
    out.print(f"{len(rows)} runs, {flops(plan.flops)} in all (dense accounting)")
