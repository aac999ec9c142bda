"""The service on a real ledger, in this process; and, for the browser, on a real port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.orm import Session

from fitter.service import create_app
from fitter.service.submission import Links
from ledger.engine import connect
from ledger.models import Base, Sweep
from ledger.settings import Settings
from tests.service import grid
from tests.service.serving import serving

CHROMIUM = next(
    (str(p) for p in map(Path, ("/usr/bin/chromium", "/usr/bin/google-chrome")) if p.exists()), None
)


@pytest.fixture(scope="session")
def service_engine(postgres: URL) -> Iterator[Engine]:
    """One migrated database for all tests of the service: emptying it is thirty times faster than a new one."""
    server = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE service TEMPLATE template_lacuna"))
    server.dispose()
    engine = connect(postgres.set(database="service").render_as_string(hide_password=False))
    yield engine
    engine.dispose()


@pytest.fixture
def engine(service_engine: Engine) -> Engine:
    """An engine on an empty ledger."""
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with service_engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    return service_engine


@pytest.fixture
def settings(home: Path, engine: Engine) -> Settings:
    """Settings with a home of their own and the ledger of the test."""
    return Settings(home=home, database_url=engine.url.render_as_string(hide_password=False))


@pytest.fixture
def app(settings: Settings, engine: Engine) -> FastAPI:
    """The service as `lacuna serve` starts it on loopback, without a planner."""
    return create_app(settings=settings, engine=engine, links=Links(mlflow="http://127.0.0.1:5000"))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client on loopback. Errors of the service are answers here, as they are for a real client."""
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def sweep(session: Session) -> Sweep:
    """A sweep of 48 pending runs named `grid`."""
    return grid.plant_grid(session)


@pytest.fixture
def fitted(session: Session, sweep: Sweep) -> Sweep:
    """The same, all runs completed and with version 1 of its law."""
    grid.complete(session, sweep)
    grid.store_law(session, sweep)
    return sweep


@pytest.fixture
def served(app: FastAPI) -> Iterator[str]:
    """The address of the service on a free port of this machine."""
    with serving(app) as address:
        yield address
