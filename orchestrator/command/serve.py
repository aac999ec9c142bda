"""`lacuna serve`: the page, the REST service, and MLflow beside them."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ledger.settings import Settings
from orchestrator.command.listening import listen, loopback
from orchestrator.command.serve_aside import detach_service, revive, show_running, stop_service
from orchestrator.command.serve_mlflow import end_leftover, mlflow_beside
from orchestrator.command.serve_record import Record, service_lock, show

if TYPE_CHECKING:
    from sqlalchemy import Engine

LEDGER_SECONDS = 5
"""Seconds between two looks whether the embedded Postgres is there."""


@click.command(name="serve")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; beyond loopback a token is needed.",
)
@click.option(
    "--port",
    default=8321,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="The next free one is taken.",
)
@click.option("--detach", is_flag=True, help="Start in the background, or say where it runs already.")
@click.option("--stop", is_flag=True, help="End the service of this LACUNA_HOME and its MLflow.")
@click.option("--no-mlflow", is_flag=True, help="Do not start MLflow.")
def command(host: str, port: int, detach: bool, stop: bool, no_mlflow: bool) -> None:
    """Serve the page, the REST service and MLflow.

    \b
      lacuna serve --detach
      lacuna serve --stop
      LACUNA_API_TOKEN=… lacuna serve --host 0.0.0.0
    """
    settings = Settings.from_environment()
    settings.home.mkdir(parents=True, exist_ok=True)
    if stop:
        stop_service(settings)
        return
    if not loopback(host) and settings.api_token is None:
        raise click.UsageError(
            f"{host} is open to other machines: set LACUNA_API_TOKEN to a secret of 16 characters or more, "
            "which clients then send, or listen on 127.0.0.1"
        )
    if detach:
        detach_service(settings, host, port, no_mlflow)
        return
    with service_lock(settings) as held:
        if not held:
            show_running(settings)
            return
        _serve(settings, host, port, no_mlflow)


def _serve(settings: Settings, host: str, port: int, no_mlflow: bool) -> None:
    import uvicorn

    from fitter.service import create_app
    from ledger.engine import open_ledger
    from orchestrator.command.serve_submit import planner

    # As an exception, so that what was started is ended: the default would end this process on the spot.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    end_leftover(settings)
    engine = open_ledger(settings, pool_size=10)
    threading.Thread(target=_keep_ledger, args=[settings, engine], daemon=True).start()
    listening = listen(host, port)
    taken = listening.getsockname()[1]
    if taken != port:
        click.echo(f"port {port} is taken by another program: using {taken}", err=True)
    app = create_app(
        settings=settings,
        engine=engine,
        submit=planner(settings, engine, trusted=loopback(host)),
        after_import=_mirror_aside(settings, engine),
        require_token=not loopback(host),
    )
    named = f"[{host}]" if ":" in host else host
    with mlflow_beside(settings, app, taken + 1, no_mlflow) as (mlflow_pid, mlflow_url):
        record = Record(
            pid=os.getpid(), url=f"http://{named}:{taken}", mlflow_pid=mlflow_pid, mlflow_url=mlflow_url
        )
        record.write(settings.home / "serve.json")
        show(record)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,  # event streams never end by themselves
            h11_max_incomplete_event_size=64 * 1024,
        )
        # What was imported stays: no collection need look at it again, which would hold up an answer for its time.
        gc.collect()
        gc.freeze()
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            (settings.home / "serve.json").unlink(missing_ok=True)
            engine.dispose()


def _mirror_aside(settings: Settings, engine: Engine) -> Callable[[str], None]:
    """Brings MLflow up to date after an import, in a thread: there may be no controller whose mirror would."""
    from sqlalchemy.exc import DBAPIError

    from ledger.errors import LedgerError
    from orchestrator.tracking.process import catch_up

    asked = threading.Event()

    def work() -> None:
        while asked.wait():
            asked.clear()
            try:
                trouble = catch_up(settings, engine)
            except (DBAPIError, LedgerError, OSError) as error:
                trouble = f"MLflow could not be brought up to date: {error}"
            if trouble is not None:
                click.echo(trouble, err=True)

    def after_import(sweep: str) -> None:
        asked.set()

    threading.Thread(target=work, name="mirror", daemon=True).start()
    return after_import


def _keep_ledger(settings: Settings, engine: Engine) -> None:
    """Bring the embedded Postgres back whenever it is gone: nobody else may be there to do it. Never returns."""
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    from ledger.errors import LedgerError

    while True:
        time.sleep(LEDGER_SECONDS)
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            # What keeps it from starting is in its own log; the next look tries again.
            with suppress(LedgerError, OSError):
                revive(settings)
