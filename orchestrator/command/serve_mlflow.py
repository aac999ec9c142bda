"""MLflow beside the service: a child process; without it the service serves on and says so."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from ledger.settings import Settings
from orchestrator.command.listening import listen
from orchestrator.command.processes import end_group
from orchestrator.command.serve_record import Record

if TYPE_CHECKING:
    from fastapi import FastAPI


@contextmanager
def mlflow_beside(
    settings: Settings, app: FastAPI, port: int, unwanted: bool
) -> Iterator[tuple[int | None, str | None]]:
    """MLflow for as long as the service runs: (its process id, its address), None for what there is not."""
    from fitter.service.app import set_links
    from fitter.service.submission import Links
    from orchestrator.tracking.errors import TrackingError
    from orchestrator.tracking.store import tracking_server_command

    if settings.tracking_uri and settings.tracking_uri.startswith(("http://", "https://")):
        set_links(app, Links(mlflow=settings.tracking_uri.rstrip("/")))
        yield None, settings.tracking_uri.rstrip("/")
        return
    if unwanted:
        yield None, None
        return
    try:
        # Held until MLflow is about to take it, so that the number is free then.
        with listen("127.0.0.1", port) as reserved:
            chosen = reserved.getsockname()[1]
        arguments, environment = tracking_server_command(settings, chosen)
        settings.logs.mkdir(parents=True, exist_ok=True)
        log = settings.logs / "mlflow.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # its workers end with it; Ctrl-C in the terminal reaches us first
            )
    except (TrackingError, OSError, click.ClickException) as error:
        click.echo(f"MLflow could not be started: {error}", err=True)
        set_links(app, Links(notice=f"MLflow could not be started: {error}"))
        yield None, None
        return
    address = f"http://127.0.0.1:{chosen}"
    set_links(app, Links(mlflow=address))
    ending = threading.Event()

    def watch() -> None:
        code = child.wait()
        if not ending.is_set():
            click.echo(f"MLflow ended with code {code}; the service goes on. Its log: {log}", err=True)
            set_links(app, Links(notice="MLflow ended; its log is mlflow.log under LACUNA_HOME/logs."))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield child.pid, address
    finally:
        ending.set()
        end_group(child.pid)


def end_leftover(settings: Settings) -> None:
    """End the MLflow of a service that was killed; its number counts only while it still is that MLflow."""
    import psutil

    record = Record.read(settings.home / "serve.json")
    if record is None or record.mlflow_pid is None or record.mlflow_url is None:
        return
    with suppress(psutil.Error):
        arguments = psutil.Process(record.mlflow_pid).cmdline()
        if "mlflow" in arguments and record.mlflow_url.rpartition(":")[2] in arguments:
            end_group(record.mlflow_pid)
