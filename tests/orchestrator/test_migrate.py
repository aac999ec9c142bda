"""`lacuna migrate` on a real Postgres."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, create_engine, make_url, text

from ledger.engine import connect
from ledger.migrations import HEAD, current_revision
from orchestrator.command.migrate import command


def run(*arguments: str, url: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, list(arguments), env={"LACUNA_DATABASE_URL": url})
    return done.exit_code, done.output + (str(done.exception) if done.exception else "")


def test_an_empty_database_gets_the_tables_once(empty_database_url: str) -> None:
    assert run("--check", url=empty_database_url)[0] == 1
    assert run(url=empty_database_url) == (0, f"the tables are of revision {HEAD} (before: none)\n")
    assert run("--check", url=empty_database_url) == (0, f"the tables are of revision {HEAD}\n")
    engine = connect(empty_database_url)
    assert current_revision(engine) == HEAD
    engine.dispose()


def test_mlflow_gets_a_database_beside_the_ledger(database_url: str) -> None:
    code, said = run("--with-tracking", url=database_url)
    assert (code, said.splitlines()[-1]) == (0, "MLflow has a database")
    engine = create_engine(make_url(database_url).set(database="mlflow", drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_a_database_that_never_answers_is_named() -> None:
    code, said = run("--wait", "1", url="postgresql://lacuna:secret@127.0.0.1:9/lacuna")
    assert code == 1
    assert "127.0.0.1:9/lacuna does not answer" in said
    assert "secret" not in said


def test_a_database_without_an_encoding_is_refused_with_the_way_out(postgres: URL) -> None:
    name = "plain_ascii"
    server = create_engine(postgres.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"))
    server.dispose()
    code, said = run(url=postgres.set(database=name).render_as_string(hide_password=False))
    assert code == 1
    assert f"/{name}" in said
    assert "encoding SQL_ASCII" in said
    assert "CREATE DATABASE lacuna ENCODING 'UTF8' TEMPLATE template0" in said


@pytest.mark.parametrize("newer", ["9999"])
def test_tables_of_a_newer_version_are_refused(database_url: str, newer: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": newer})
    engine.dispose()
    code, said = run(url=database_url)
    assert code == 1
    assert f"revision {newer}" in said
