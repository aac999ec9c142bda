"""Which MLflow store, how to reach it, and how to show it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ledger.engine import ensure_database, ledger_url
from ledger.settings import Settings
from orchestrator.tracking.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: MLflow's database on the ledger's server, where LACUNA_TRACKING_URI names no other store.
DATABASE = "mlflow"

#: What MLflow's client reads when it is imported: an outage is noticed in seconds instead of minutes, and a process
#: that only writes metrics neither traces nor phones home.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # when to ask again, the mirror says
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    # Asks the server for the run again, to print where it is to be seen.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(settings: Settings) -> str:
    """LACUNA_TRACKING_URI, or a database beside the ledger, created where it is missing.

    Raises LedgerError when the ledger's server does not answer, TrackingError when it allows no database.
    """
    if settings.tracking_uri:
        return settings.tracking_uri
    url = ledger_url(settings)
    try:
        return ensure_database(url, DATABASE)
    except SQLAlchemyError as error:
        raise TrackingError(
            f"no database {DATABASE!r} on {shown(url)} and none can be created: create it, "
            "or set LACUNA_TRACKING_URI"
        ) from error


def artifact_location(settings: Settings, experiment: str) -> str | None:
    """Where an experiment's artifacts go; None where a tracking server decides."""
    if settings.tracking_uri and urlsplit(settings.tracking_uri).scheme in ("http", "https", "databricks"):
        return None
    return (artifacts(settings) / experiment).as_uri()


def artifacts(settings: Settings) -> Path:
    """The folder of plots and law documents, where no tracking server keeps them."""
    return settings.home / "mlflow-artifacts"


def connect(settings: Settings) -> MlflowClient:
    """A client on a store that answers. Imports MLflow: a second or two. Raises TrackingError, LedgerError."""
    uri = tracking_uri(settings)
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    from mlflow import MlflowClient

    # Its own migrations are told line by line.
    for logger in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise unreachable(uri, error) from error
    return client


def unreachable(uri: str, error: BaseException) -> TrackingError:
    """The one line for a store that does not answer."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = (lines[0] if lines else type(error).__name__)[:300]
    return TrackingError(
        f"MLflow at {shown(uri)} does not answer: {cause}; "
        "check that it runs there and LACUNA_TRACKING_URI is right (training goes on without it)"
    )


def shown(uri: str) -> str:
    """The URI with its password hidden."""
    try:
        return make_url(uri).render_as_string()
    except ArgumentError:
        return uri


def tracking_server_command(settings: Settings, port: int) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of an MLflow server, with its pages, on the loopback interface, showing the
    store that the mirror writes to.

    One worker process and no job runner: it answers in milliseconds and takes little memory. The store's URL goes
    through the environment, where other users of the machine do not see its password.
    Raises TrackingError when LACUNA_TRACKING_URI names a server: that one shows itself.
    """
    uri = tracking_uri(settings)
    if urlsplit(uri).scheme in ("http", "https"):
        raise TrackingError(f"LACUNA_TRACKING_URI is a server already: open {uri}")
    hosts = ",".join(f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *(
            "--workers",
            "1",
            "--allowed-hosts",
            hosts,
            "--artifacts-destination",
            artifacts(settings).as_uri(),
        ),
    ]
    environment = {
        **os.environ,
        **CLIENT_ENVIRONMENT,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return command, environment
