"""The service in a process of its own: `lacuna serve --detach` and `--stop`."""

from __future__ import annotations

import subprocess
import sys
import time

import click

from ledger.settings import Settings
from orchestrator.command.processes import alive, end, end_group
from orchestrator.command.serve_record import Record, answers, is_running, show

READY_SECONDS = 90
"""Seconds in which a service must answer: the first start creates the embedded Postgres."""


def detach_service(settings: Settings, host: str, port: int, no_mlflow: bool) -> None:
    # A service that runs may have lost its embedded Postgres to a kill: it answers again once that is back.
    revive(settings)
    if is_running(settings):
        show_running(settings)
        return
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / "serve.log"
    arguments = ["--host", host, "--port", str(port), *(["--no-mlflow"] if no_mlflow else [])]
    program = "from orchestrator.command.main import main; main()"
    with log.open("ab") as output:
        begins = output.tell()
        child = subprocess.Popen(
            [sys.executable, "-c", program, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    record = _wait_for_record(settings, child)
    if record is None:
        with log.open("rb") as written:
            written.seek(begins)
            said = written.read()[-2000:].decode(errors="replace").strip()
        end(child.pid)
        raise click.ClickException(f"the service did not start; its log, {log}, ends with:\n{said}")
    if not record.url.endswith(f":{port}"):
        click.echo(f"port {port} is taken by another program: using {record.url.rpartition(':')[2]}")
    show(record)


def show_running(settings: Settings) -> None:
    record = _wait_for_record(settings, None)
    if record is None:
        raise click.ClickException("a service of this LACUNA_HOME is starting but does not answer")
    click.echo("running already:")
    show(record)


def stop_service(settings: Settings) -> None:
    record = Record.read(settings.home / "serve.json")
    if record is None or not is_running(settings):
        # The lock is the proof: without it the numbers in the record may be anyone's by now.
        click.echo("no service of this LACUNA_HOME is running")
        return
    end(record.pid)
    if record.mlflow_pid is not None and alive(record.mlflow_pid):
        end_group(record.mlflow_pid)
    (settings.home / "serve.json").unlink(missing_ok=True)
    click.echo(f"stopped {record.url}")


def _wait_for_record(settings: Settings, child: subprocess.Popen[bytes] | None) -> Record | None:
    """The record of a service that answers; None where `child` ended first or nothing answered in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        record = Record.read(settings.home / "serve.json")
        if (
            record is not None
            and (child is None or record.pid == child.pid)
            and answers(f"{record.url}/readyz")
        ):
            return record
        if child is not None and child.poll() is not None:
            # Another service may have come first: then that one answers.
            return Record.read(settings.home / "serve.json") if is_running(settings) else None
        time.sleep(0.1)
    return None


def revive(settings: Settings) -> None:
    """Start the embedded Postgres where it does not run. Raises LedgerError."""
    from ledger.engine import ledger_url

    if settings.database_url is None:
        ledger_url(settings)
