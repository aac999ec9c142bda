"""`lacuna schema`: the JSON Schema of a spec, for editors."""

from __future__ import annotations

import click

from orchestrator.command.output import print_json
from orchestrator.spec.reference import json_schema, markdown


@click.command(name="schema")
@click.option(
    "--markdown", "as_markdown", is_flag=True, help="The reference for people instead (docs/spec.md)."
)
def command(as_markdown: bool) -> None:
    """Print the JSON Schema of a spec, so that editors complete and check the YAML.

    \b
      lacuna schema > spec.schema.json
    """
    if as_markdown:
        click.echo(markdown(), nl=False)
    else:
        print_json(json_schema())
