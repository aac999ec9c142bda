"""The ledger as a subcommand uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger.engine import open_ledger
from ledger.settings import Settings


@contextmanager
def ledger_engine(settings: Settings | None = None) -> Iterator[Engine]:
    """The engine of this environment's ledger, closed at the end. Raises LedgerError."""
    engine = open_ledger(settings or Settings.from_environment())
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def ledger_session(settings: Settings | None = None) -> Iterator[Session]:
    """One transaction on this environment's ledger, committed at the end. Raises LedgerError."""
    with ledger_engine(settings) as engine, Session(engine) as session, session.begin():
        yield session
