"""`lacuna compare TABLE`: rank law forms by held-out error and AICc."""

from __future__ import annotations

import json

import click

from orchestrator.command.fit import refuse
from orchestrator.command.source import api_option, group_option, objective_options, table_or_sweep


@click.command()
@click.argument("table")
@click.option("--form", "forms", multiple=True, help="Law form to compare; repeat it. Default: all that fit.")
@objective_options
@group_option
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def command(
    table: str,
    forms: tuple[str, ...],
    residual: str,
    huber_delta: float,
    group: str | None,
    api: str | None,
    as_json: bool,
) -> None:
    """Rank law forms on TABLE (a file or a sweep) by their error on runs held out at the far end of each axis.

    \b
      lacuna compare runs.csv
    """
    import fitter
    from fitter.errors import FitError

    try:
        result = fitter.compare(
            table_or_sweep(table, api, group),
            forms=forms or None,
            residual="raw" if residual == "raw" else "log",
            huber_delta=huber_delta,
        )
    except FitError as error:
        refuse(error)
        return
    if as_json:
        click.echo(json.dumps(result.document(), allow_nan=False))
        return
    head = "".join(f"{axis:>16}" for axis in result.axes)
    click.echo(f"{'form':18}{'held-out':>9}{'dAICc':>9}{head}      (log RMSE of held-out runs)")
    best = min(contender.aicc for contender in result.contenders)
    for contender in result.contenders:
        errors = "".join(f"{contender.roll_outs[axis].log_rmse:16.4f}" for axis in result.axes)
        click.echo(f"{contender.form:18}{contender.held_out:9.4f}{contender.aicc - best:9.1f}{errors}")
    for form, reason in result.left_out.items():
        click.echo(f"left out: {form}: {reason}")
