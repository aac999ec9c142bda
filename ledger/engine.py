"""Opening the ledger: which Postgres, is it there, and has it our tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError

from ledger.embedded import embedded_url
from ledger.errors import LedgerError
from ledger.migrations import migrate
from ledger.settings import Settings

#: The embedded server's database for the ledger; an external one is named by its URL.
DATABASE = "lacuna"

#: Seconds to wait for a connection before saying that nobody answers.
CONNECT_SECONDS = 5

#: A server whose machine vanished without a word, or that a firewall forgot, is given up after 3 probes, 3 s apart, or
#: where it confirms nothing of what it was sent for so many milliseconds: the kernel by itself would wait for hours.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 14_000,
}

#: The only encoding in which a database takes every text: names, reasons of failures, specs with their comments.
ENCODING = "UTF8"


def open_ledger(settings: Settings, *, pool_size: int = 5) -> Engine:
    """The ledger of these settings, answering and migrated to this version's tables.

    Starts the embedded Postgres under `settings.home` where no `database_url` is given; it then lives at least as
    long as this process. Raises LedgerError, in one line with the URL (password hidden), when it does not answer.
    """
    engine = connect(ledger_url(settings), pool_size=pool_size)
    migrate(engine)
    return engine


def ledger_url(settings: Settings) -> str:
    """The ledger's URL, password included, for processes on this machine (or any that reach the host).

    Starts the embedded server where that is the ledger, and creates its database.
    """
    if settings.database_url:
        return normalized(settings.database_url).render_as_string(hide_password=False)
    return embedded_database(settings, DATABASE)


def embedded_database(settings: Settings, name: str) -> str:
    """The URL of a database on the embedded server, created where it is missing."""
    return ensure_database(embedded_url(settings.home / "postgres"), name)


def ensure_database(url: str, name: str) -> str:
    """The URL of another database on the server of `url`, created where it is missing.

    Raises sqlalchemy's errors: the server is away, or the user may not create databases.
    """
    server = normalized(url)
    wanted = server.set(database=name)
    engine = create_engine(
        server, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": CONNECT_SECONDS}
    )
    try:
        with engine.connect() as connection:
            exists = text("SELECT 1 FROM pg_database WHERE datname = :name")
            if not connection.scalar(exists, {"name": name}):
                # Session lock: two first processes do not both create.
                connection.execute(text("SELECT pg_advisory_lock(hashtext('lacuna create database'))"))
                if not connection.scalar(exists, {"name": name}):
                    connection.execute(text(f'CREATE DATABASE "{name}"'))
    finally:
        engine.dispose()
    return wanted.render_as_string(hide_password=False)


def connect(url: str, *, pool_size: int = 5) -> Engine:
    """An engine on a ledger that answers. Raises LedgerError when none does within CONNECT_SECONDS, or when its
    database has another encoding than ENCODING."""
    engine = create_engine(
        normalized(url),
        pool_pre_ping=True,  # a restarted server costs a reconnect, not an error
        pool_size=pool_size,
        max_overflow=10,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            **KEEPALIVE,
            "application_name": "lacuna",
            # Else the driver follows the database, and gives bytes for texts where that has no encoding.
            "client_encoding": ENCODING,
        },
    )
    try:
        with engine.connect() as connection:
            encoding = connection.scalar(text("SELECT current_setting('server_encoding')"))
    except OperationalError as error:
        engine.dispose()
        raise LedgerError(
            f"the ledger's database {engine.url.render_as_string()} does not answer: {_cause(error)}; "
            "check that Postgres runs there and LACUNA_DATABASE_URL is right"
        ) from error
    if encoding != ENCODING:
        engine.dispose()
        raise LedgerError(
            f"the ledger's database {engine.url.render_as_string()} has the encoding {encoding} and would refuse some "
            f"texts: make one with `CREATE DATABASE lacuna ENCODING '{ENCODING}' TEMPLATE template0` and name it in "
            "LACUNA_DATABASE_URL"
        )
    return engine


def normalized(url: str) -> URL:
    """A Postgres URL as people write it (`postgres://`, `postgresql://`), for the driver that is installed."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise LedgerError(
            "LACUNA_DATABASE_URL is no URL: write postgresql://user:password@host:5432/database"
        ) from error
    if parsed.drivername.split("+")[0] not in ("postgres", "postgresql"):
        raise LedgerError(
            f"LACUNA_DATABASE_URL names {parsed.drivername!r}: the ledger lives in Postgres only, "
            "write postgresql://user:password@host:5432/database"
        )
    return parsed.set(drivername="postgresql+psycopg")


def _cause(error: OperationalError) -> str:
    """The driver's complaint, in one line."""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    return lines[-1] if lines else type(error.orig).__name__
