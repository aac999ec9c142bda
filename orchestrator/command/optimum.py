"""`lacuna optimum`: how sparse should this model be?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from orchestrator.command.facts import InputError
from orchestrator.command.output import (
    console,
    count,
    figure,
    flops,
    percent,
    print_json,
    shares,
    span,
    table,
)
from orchestrator.command.source import open_source
from orchestrator.command.which_law import chosen_law, law_options

if TYPE_CHECKING:
    from fitter.accounting import Accounting
    from fitter.law import Law
    from fitter.measurement import MeasuredCosts


@click.command(name="optimum")
@law_options
@click.option("--params", "-N", type=float, help="Non-zero parameters of the model.")
@click.option("--flops", "-C", "budget", type=float, help="Training compute, in FLOPs.")
@click.option(
    "--accounting",
    type=click.Choice(["dense", "sparse", "measured"]),
    default="dense",
    show_default=True,
    help="Whether masked weights cost as others do (dense), nothing (sparse), or what was measured (measured).",
)
@click.option(
    "--cost",
    multiple=True,
    metavar="S=FACTOR",
    help="Measured training cost at a sparsity relative to a dense model with N parameters; repeat it. Default: "
    "from the times of the sweep's own runs.",
)
@click.option(
    "--cost-table",
    type=click.Path(path_type=Path),
    help="The same from a table: sparsity and multiplier, or sparsity, nonzero_params, data, seconds of runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    sweep: str | None,
    law_file: Path | None,
    group: str | None,
    api: str | None,
    params: float | None,
    budget: float | None,
    accounting: str,
    cost: tuple[str, ...],
    cost_table: Path | None,
    as_json: bool,
) -> None:
    """Say how sparse a model with N non-zero parameters should be when C FLOPs are spent on its training.

    Without N and C it is the question that the law's own runs answer best.

    \b
      lacuna optimum --sweep quickstart
      lacuna optimum --sweep quickstart --params 64e3 --flops 2e12
      lacuna optimum --sweep quickstart -N 64e3 -C 2e12 --accounting measured
      lacuna optimum --sweep methods --group 2:4 -N 64e3 -C 2e12
      lacuna optimum --law law.json -N 64e3 -C 2e12 --accounting measured --cost 0.5=1.6 --cost 0.75=2.5
    """
    from fitter.optimum import SPARSEST
    from fitter.question import first_question

    if (params is None) != (budget is None):
        raise InputError("--params and --flops go together: give both, or neither")
    law = chosen_law(sweep, law_file, group, api)
    if params is None or budget is None:
        params, budget = first_question(law)
    how: Accounting = accounting
    costs: MeasuredCosts | None = None
    if accounting == "measured":
        costs = _costs(sweep, group, api, cost, cost_table)
        how = costs.accounting
    elif cost or cost_table is not None:
        raise InputError("--cost and --cost-table go with --accounting measured")
    answer = ask(law, params, budget, how)
    if costs is not None:
        answer["costs"] = costs.document()
    if as_json:
        print_json(answer)
        return
    level = f"{100 * answer['level']:g} %"
    rows = [
        ("optimal sparsity", percent(round(answer["sparsity"], 4)), shares(answer["low"], answer["high"])),
        ("data", count(answer["data"]), ""),
        ("loss", figure(answer["loss"], 5), span(answer["loss_low"], answer["loss_high"], 5)),
        ("loss if dense", figure(answer["dense_loss"], 5), ""),
    ]
    out = console()
    out.print(f"N = {count(params)} non-zero parameters, C = {flops(budget)}, {accounting} accounting")
    out.print(table(["", ">", f"{level} interval"], rows))
    if costs is not None:
        shown = ", ".join(
            f"{percent(s)} {m:.3g}×" for s, m in zip(costs.sparsity, costs.multiplier, strict=True)
        )
        out.print(f"measured cost: {shown} of a dense model with as many non-zero parameters")
    if answer["sparsity"] > 0.9999 * SPARSEST:
        out.print(
            f"note: no more than {percent(SPARSEST)} is looked at; up to there this law only gains by sparsity"
        )
    if answer["extrapolates"]:
        out.print(
            "note: this lies outside the fitted runs; the interval does not cover a law that bends there"
        )


def ask(law: Law, params: float, budget: float, accounting: Accounting = "dense") -> dict[str, Any]:
    """The optimum as plain JSON values."""
    optimum = law.optimum(params, budget, accounting)
    names = ("sparsity", "low", "high", "data", "loss", "loss_low", "loss_high", "dense_loss", "multiplier")
    numbers: dict[str, Any] = {name: _number(getattr(optimum, name)) for name in names}
    return {
        "nonzero_params": params,
        "flops": budget,
        "accounting": optimum.accounting,
        **numbers,
        "extrapolates": bool(optimum.extrapolates),
        "level": optimum.level,
    }


def _costs(
    sweep: str | None, group: str | None, api: str | None, cost: tuple[str, ...], cost_table: Path | None
) -> MeasuredCosts:
    """The measured costs that the options name: given ones, those of a table, else those of the sweep's own runs."""
    from fitter.measurement import measured_costs
    from fitter.table import read

    if cost and cost_table is not None:
        raise InputError("give the costs by --cost or by --cost-table, not by both")
    if cost_table is not None:
        return measured_costs(read(cost_table))
    if cost:
        try:
            pairs = [(float(sparsity), float(factor)) for sparsity, factor in (e.split("=") for e in cost)]
        except ValueError:
            raise InputError(f"--cost is S=FACTOR, such as 0.75=2.5; found {' '.join(cost)}") from None
        return measured_costs({"sparsity": [s for s, _ in pairs], "multiplier": [m for _, m in pairs]})
    if sweep is None:
        raise InputError(
            "--accounting measured needs --cost S=FACTOR or --cost-table FILE with a law from a file: only a sweep "
            "has times of its own"
        )
    with open_source(api) as source:
        return source.costs(sweep, group)


def _number(value: object) -> float | None:
    number = float(cast(Any, value))
    return number if number == number else None
