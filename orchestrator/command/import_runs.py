"""`lacuna import SWEEP TABLE`: finished runs from elsewhere, for law, page, suggestions and MLflow."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.command.output import console, print_json
from orchestrator.command.source import api_option, open_source


@click.command(name="import")
@click.argument("sweep")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--form", help="Law form of a new sweep; default: sparsity.")
@click.option(
    "--residual", type=click.Choice(["log", "raw"]), help="Residual of a new sweep's fits; default: log."
)
@click.option("--huber-delta", type=float, help="Huber threshold of a new sweep's fits; default: 1e-3.")
@click.option("--level", type=float, help="Level of a new sweep's intervals; default: 0.9.")
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    sweep: str,
    table: Path,
    form: str | None,
    residual: str | None,
    huber_delta: float | None,
    level: float | None,
    api: str | None,
    as_json: bool,
) -> None:
    """Import the finished runs in TABLE (CSV, Parquet or JSON) into SWEEP, which is made where there is none.

    Columns: sparsity, nonzero_params, data, loss; known are family, pattern, method, seed, steps, unique_data, name,
    completed_at and seconds (of training); others are kept. The same table twice is imported once.

    \b
      lacuna import my-runs runs.csv
      lacuna law my-runs
    """
    settings = {"form": form, "residual": residual, "huber_delta": huber_delta, "level": level}
    with open_source(api) as source:
        done = source.import_runs(sweep, table, {k: v for k, v in settings.items() if v is not None})
    if as_json:
        print_json(done)
        return
    out = console()
    what = "new sweep" if done["created"] else "sweep"
    out.print(f"{what} {sweep}: {done['added']} runs imported, {done['unchanged']} were there already")
    if done["law_version"] is not None:
        out.print(f"law: version {done['law_version']} (`lacuna law {sweep}`)")
    else:
        out.print("law: not fitted yet; what is missing:")
        for line in done["missing"]:
            out.print(f"  {line}", markup=False)
