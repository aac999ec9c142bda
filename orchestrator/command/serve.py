"""`lacuna serve`: the page, the REST service, and MLflow beside them.

One service a LACUNA_HOME: it holds a lock on `serve.lock` as long as it lives (the kernel drops a dead process's lock)
and writes what it is to `serve.json`. MLflow is a child process; without it the service serves on and says so.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from ledger.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy import Engine

READY_SECONDS = 90
"""Seconds in which a service must answer: the first start creates the embedded Postgres."""
STOP_SECONDS = 15
"""Seconds between asking a process to end and ending it."""
PORTS_TRIED = 50
LEDGER_SECONDS = 5
"""Seconds between two looks whether the embedded Postgres is there."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is in `serve.json`."""

    pid: int
    url: str
    mlflow_pid: int | None
    mlflow_url: str | None

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record there; None where there is none, or a broken one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Write it aside and publish it by one rename."""
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(asdict(self), indent=2) + "\n")
        aside.replace(path)


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
        _stop(settings)
        return
    if not loopback(host) and not _has_token(settings):
        raise click.UsageError(
            f"{host} is open to other machines: set LACUNA_API_TOKEN to a secret of 16 characters or more, "
            "which clients then send, or listen on 127.0.0.1"
        )
    if detach:
        _detach(settings, host, port, no_mlflow)
        return
    with _lock(settings) as held:
        if not held:
            _show_running(settings)
            return
        _serve(settings, host, port, no_mlflow)


def loopback(host: str) -> bool:
    """Whether nobody but this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def show(record: Record) -> None:
    """The three addresses."""
    click.echo(f"page    {record.url}/")
    click.echo(f"MLflow  {record.mlflow_url or 'not running'}")
    click.echo(f"REST    {record.url}/v1  (try it out: {record.url}/docs)")


# ---- in this process ---------------------------------------------------------------------------------------------


def _serve(settings: Settings, host: str, port: int, no_mlflow: bool) -> None:
    import uvicorn

    from fitter.service import create_app
    from ledger.engine import open_ledger
    from orchestrator.command.serve_submit import planner

    # As an exception, so that what was started is ended: the default would end this process on the spot.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    _end_leftover(settings)
    engine = open_ledger(settings, pool_size=10)
    threading.Thread(target=_keep_ledger, args=[settings, engine], daemon=True).start()
    listening = _listen(host, port)
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
    with _mlflow(settings, app, taken + 1, no_mlflow) as (mlflow_pid, mlflow_url):
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


def _listen(host: str, port: int) -> socket.socket:
    """A socket on the first free port from `port` on. Raises ClickException where there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host.strip("[]"), candidate))
            listening.listen(512)
            return listening
        except OSError as error:
            listening.close()
            problem = error
    raise click.ClickException(f"no port of {host} from {port} on can be listened on: {problem}")


@contextmanager
def _mlflow(
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
        with _listen("127.0.0.1", port) as reserved:
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
        _end_group(child.pid)


# ---- another process ---------------------------------------------------------------------------------------------


@contextmanager
def _lock(settings: Settings) -> Iterator[bool]:
    """Whether this process holds the lock of a service; False where another one does."""
    lock: IO[str]
    with (settings.home / "serve.lock").open("w") as lock:
        # A second, because whoever asks `_is_running` at this moment holds the lock for an instant.
        for _ in range(20):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                yield True
                return
        yield False


def _is_running(settings: Settings) -> bool:
    with (settings.home / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _end_leftover(settings: Settings) -> None:
    """End the MLflow of a service that was killed; its number counts only while it still is that MLflow."""
    import psutil

    record = Record.read(settings.home / "serve.json")
    if record is None or record.mlflow_pid is None or record.mlflow_url is None:
        return
    with suppress(psutil.Error):
        arguments = psutil.Process(record.mlflow_pid).cmdline()
        if "mlflow" in arguments and record.mlflow_url.rpartition(":")[2] in arguments:
            _end_group(record.mlflow_pid)


def _show_running(settings: Settings) -> None:
    record = _wait_for_record(settings, None)
    if record is None:
        raise click.ClickException("a service of this LACUNA_HOME is starting but does not answer")
    click.echo("running already:")
    show(record)


def _detach(settings: Settings, host: str, port: int, no_mlflow: bool) -> None:
    # A service that runs may have lost its embedded Postgres to a kill: it answers again once that is back.
    _revive(settings)
    if _is_running(settings):
        _show_running(settings)
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
        _end(child.pid)
        raise click.ClickException(f"the service did not start; its log, {log}, ends with:\n{said}")
    if not record.url.endswith(f":{port}"):
        click.echo(f"port {port} is taken by another program: using {record.url.rpartition(':')[2]}")
    show(record)


def _revive(settings: Settings) -> None:
    """Start the embedded Postgres where it does not run. Raises LedgerError."""
    from ledger.engine import ledger_url

    if settings.database_url is None:
        ledger_url(settings)


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
                _revive(settings)


def _wait_for_record(settings: Settings, child: subprocess.Popen[bytes] | None) -> Record | None:
    """The record of a service that answers; None where `child` ended first or nothing answered in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        record = Record.read(settings.home / "serve.json")
        if record is not None and (child is None or record.pid == child.pid) and _answers(record.url):
            return record
        if child is not None and child.poll() is not None:
            # Another service may have come first: then that one answers.
            return Record.read(settings.home / "serve.json") if _is_running(settings) else None
        time.sleep(0.1)
    return None


def _answers(url: str) -> bool:
    import httpx

    address = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    try:
        return httpx.get(f"{address}/readyz", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(settings: Settings) -> None:
    record = Record.read(settings.home / "serve.json")
    if record is None or not _is_running(settings):
        # The lock is the proof: without it the numbers in the record may be anyone's by now.
        click.echo("no service of this LACUNA_HOME is running")
        return
    _end(record.pid)
    if record.mlflow_pid is not None and _alive(record.mlflow_pid):
        _end_group(record.mlflow_pid)
    (settings.home / "serve.json").unlink(missing_ok=True)
    click.echo(f"stopped {record.url}")


def _end(pid: int) -> None:
    """Ask a process to end, and end it where it does not."""
    _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _alive(pid):
        _signal(pid, signal.SIGKILL)


def _end_group(pid: int) -> None:
    """The same for a process that leads a group, and for what it started."""
    _signal(-pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(-pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _has_token(settings: Settings) -> bool:
    return settings.api_token is not None


def running(settings: Settings) -> dict[str, Any] | None:
    """What `serve.json` says of a service that runs; None where none does."""
    record = Record.read(settings.home / "serve.json")
    return asdict(record) if record is not None and _is_running(settings) else None
