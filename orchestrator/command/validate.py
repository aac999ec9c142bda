"""`lacuna validate`: all that is wrong with a spec, and nothing written."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.settings import Settings
from orchestrator.command.output import print_json
from orchestrator.pools import declared
from orchestrator.spec import SpecError, load_spec_file
from orchestrator.spec.cells import cells


@click.command(name="validate")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(spec: Path, as_json: bool) -> None:
    """Check SPEC and list everything that is wrong with it: path, line, value, and what would be right.

    \b
      lacuna validate examples/quickstart.yaml
    """
    try:
        checked = load_spec_file(spec, declared(Settings.from_environment()))
    except SpecError as error:
        if not as_json:
            raise
        print_json({"valid": False, "problems": error.documents()})
        raise click.exceptions.Exit(2) from None
    found, _ = cells(checked)
    if as_json:
        print_json({"valid": True, "name": checked.name, "runs": len(found), "spec": checked.canonical()})
    else:
        click.echo(f"{spec} is valid: sweep {checked.name}, {len(found)} runs")
