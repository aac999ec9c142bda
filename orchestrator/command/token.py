"""`lacuna token`: who may use the service from elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from orchestrator.command.connection import ledger_engine
from orchestrator.command.output import console, print_json, table


@click.group(name="token")
def command() -> None:
    """Create, list and revoke the bearer tokens of the service. None is needed on this machine itself.

    \b
      lacuna token create alice --write --days 90
      lacuna token list
      lacuna token revoke 3f9a1c20b7de
    """


@command.command()
@click.argument("name")
@click.option("--write", is_flag=True, help="It may also submit, pause, resume and cancel.")
@click.option("--days", type=click.IntRange(min=1), help="Days until it expires; default: never.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def create(name: str, write: bool, days: int | None, as_json: bool) -> None:
    """Make a token for NAME. It is shown once; only its hash is stored.

    \b
      lacuna token create alice --write --days 90
    """
    from fitter.service import tokens

    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with ledger_engine() as engine:
        text = tokens.create(engine, name, ("read", "write") if write else ("read",), expires)
    if as_json:
        print_json({"token": text, "name": name, "expires_at": expires})
        return
    click.echo(text)
    click.echo("keep it now: it is not shown again", err=True)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_(as_json: bool) -> None:
    """List the tokens, newest first, with what they may do.

    \b
      lacuna token list
    """
    from fitter.service import tokens

    with ledger_engine() as engine:
        found = tokens.list_(engine)
    if as_json:
        print_json({"tokens": [{**vars(token), "valid": token.valid} for token in found]})
        return
    rows = [
        (
            token.id,
            token.name,
            " ".join(token.scopes),
            "valid" if token.valid else "revoked" if token.revoked_at else "expired",
            f"{token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "never",
        )
        for token in found
    ]
    console().print(table(["id", "name", "may", "state", "expires"], rows))


@command.command()
@click.argument("identity", metavar="ID")
def revoke(identity: str) -> None:
    """Make the token with this ID open nothing any more, within seconds.

    \b
      lacuna token revoke 3f9a1c20b7de
    """
    from fitter.service import tokens

    with ledger_engine() as engine:
        tokens.revoke(engine, identity)
    click.echo(f"{identity} is revoked")
