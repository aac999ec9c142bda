"""`lacuna predict`: the loss of a model that nobody has trained yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from orchestrator.command.output import console, count, figure, percent, print_json, span, table
from orchestrator.command.which_law import chosen_law, law_options


@click.command(name="predict")
@law_options
@click.option("--sparsity", "-S", type=float, required=True, help="Share of zero weights, in [0, 1).")
@click.option("--params", "-N", type=float, required=True, help="Non-zero parameters.")
@click.option("--data", "-D", type=float, required=True, help="Training data, in tokens (or images).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    sweep: str | None,
    law_file: Path | None,
    group: str | None,
    api: str | None,
    sparsity: float,
    params: float,
    data: float,
    as_json: bool,
) -> None:
    """Predict the validation loss at (S, N, D).

    \b
      lacuna predict --sweep quickstart --sparsity 0.75 --params 64e3 --data 2e6
    """
    answer = chosen_law(sweep, law_file, group, api).predict(sparsity, params, data)
    numbers = {
        name: _number(getattr(answer, name))
        for name in ("loss", "low", "high", "new_run_low", "new_run_high")
    }
    if as_json:
        question = {"sparsity": sparsity, "nonzero_params": params, "data": data}
        print_json({**question, **numbers, "level": answer.level})
        return
    level = f"{100 * answer.level:g} %"
    rows = [
        ("loss", figure(numbers["loss"], 5), ""),
        ("of the mean", "", f"{span(numbers['low'], numbers['high'], 5)} ({level})"),
        ("of one new run", "", f"{span(numbers['new_run_low'], numbers['new_run_high'], 5)} ({level})"),
    ]
    out = console()
    out.print(f"S = {percent(sparsity)}, N = {count(params)}, D = {count(data)}")
    out.print(table(["", ">nats", "interval"], rows))


def _number(value: object) -> float | None:
    number = float(cast(Any, value))
    return number if number == number else None
