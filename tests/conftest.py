"""Fixtures that tests of every package share: a real Postgres for the session, a fresh database for the test."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.orm import Session

from ledger import embedded
from ledger.engine import connect
from ledger.migrations import migrate
from ledger.settings import Settings

_numbers = itertools.count()

# A slow machine is no defect: no test fails for the time that it takes.
hypothesis_settings.register_profile("lacuna", deadline=None)
hypothesis_settings.load_profile("lacuna")


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """The URL of a server for this test session, with a migrated database `template_lacuna` to copy."""
    # Not pytest's own directory: a Unix socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="lacuna-") as home:
        directory = Path(home) / "postgres"
        server = make_url(embedded.embedded_url(directory))
        # Tests kill processes, not machines.
        _execute(server, "ALTER SYSTEM SET fsync = off")
        _execute(server, "SELECT pg_reload_conf()")
        _execute(server, "CREATE DATABASE template_lacuna")
        template = connect(server.set(database="template_lacuna").render_as_string(hide_password=False))
        migrate(template)
        template.dispose()
        yield server
        embedded.stop(directory)


@pytest.fixture
def database_url(postgres: URL) -> str:
    """The URL of a fresh, migrated ledger."""
    name = f"test_{next(_numbers)}"
    _execute(postgres, f"CREATE DATABASE {name} TEMPLATE template_lacuna STRATEGY file_copy")
    return postgres.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def empty_database_url(postgres: URL) -> str:
    """The URL of a database without any tables."""
    name = f"test_{next(_numbers)}"
    _execute(postgres, f"CREATE DATABASE {name}")
    return postgres.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a fresh, migrated ledger."""
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session on a fresh ledger; each statement about what others see commits it first."""
    with Session(engine) as session:
        yield session


@pytest.fixture
def home() -> Iterator[Path]:
    """A LACUNA_HOME with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lacuna-home-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
def settings(home: Path, database_url: str) -> Settings:
    """Settings with a home of their own and a fresh ledger on the session's server."""
    return Settings(home=home, database_url=database_url)


def _execute(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
