"""`lacuna doctor`: what is wrong with this set-up, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from ledger.settings import Settings
from orchestrator.command.output import console, print_json, table

#: Seconds between two clocks that nobody will notice.
CLOCK_SECONDS = 5.0

#: What the image of a part (LACUNA_PART) is spared, and who has it instead.
ELSEWHERE = {
    "service": {
        "torch": "workers train",
        "Ray": "the controller hands sweeps to it",
        "MLflow": "the controller writes to it",
    },
    "controller": {"torch": "workers train"},
    "trainer": {
        "ledger": "the controller tells workers where it is",
        "MLflow": "the controller writes to it",
    },
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` says what to do about it, empty where nothing is wrong."""

    what: str
    state: Literal["ok", "warning", "wrong"]
    found: str
    mend: str = ""


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Look at Python, torch and its devices, disk, memory, permissions, Ray, the ledger, the clock and MLflow, and say
    how to mend what is wrong. Exit code 1 when something is.

    \b
      lacuna doctor
    """
    findings = list(examine(Settings.from_environment()))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        marks = {"ok": "ok", "warning": "WARNING", "wrong": "WRONG"}
        rows = [(marks[f.state], f.what, f.found + (f" → {f.mend}" if f.mend else "")) for f in findings]
        console().print(table(["", "", ""], rows))
    if any(finding.state == "wrong" for finding in findings):
        raise click.exceptions.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, cheapest first. None changes anything but the embedded Postgres, which starts if it is used."""
    yield from _python(settings)
    yield from _machine(settings)
    yield from _home(settings)
    yield from _storage(settings)
    # The rest is not in every image: who has it, and whether it is here nevertheless.
    partly: list[tuple[str, bool, Callable[[Settings], Iterator[Finding]]]] = [
        ("torch", find_spec("torch") is not None, _torch),
        ("Ray", find_spec("ray") is not None, _ray),
        ("ledger", settings.database_url is not None, _ledger),
        # The service only links to it, and a cluster's policies keep it from there.
        ("MLflow", settings.tracking_uri is not None and settings.part != "service", _tracking),
    ]
    elsewhere = ELSEWHERE.get(settings.part or "", {})
    for what, here, check in partly:
        if what in elsewhere and not here:
            yield Finding(what, "ok", f"not for a {settings.part}: {elsewhere[what]}")
        else:
            yield from check(settings)


def _python(settings: Settings) -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    yield Finding("Python", "ok", found)


def _machine(settings: Settings) -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    found = f"{cores} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free"
    if memory.available < (1 + cores) * 2**29:
        mend = "each run needs about 0.5 GiB: free memory, or set execution.max_concurrent"
        yield Finding("machine", "warning", found, mend)
    else:
        yield Finding("machine", "ok", found)


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".doctor-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        mend = "make it writable by this user (chown, chmod u+rwx), or set LACUNA_HOME"
        yield Finding("LACUNA_HOME", "wrong", f"{home}: {error.strerror}", mend)
        return
    foreign = [path.name for path in home.iterdir() if path.stat().st_uid != os.getuid()]
    if foreign and os.getuid() != 0:
        mend = f"sudo chown -R {os.getuid()} {home}: it was once used by another user, perhaps with sudo"
        yield Finding("LACUNA_HOME", "wrong", f"{', '.join(foreign[:5])} in {home} are of another user", mend)
    free = shutil.disk_usage(home).free / 2**30
    found = f"{home}, {free:.1f} GiB free"
    if free < 2:
        yield Finding("LACUNA_HOME", "warning", found, "checkpoints need room: free some, or set LACUNA_HOME")
    else:
        yield Finding("LACUNA_HOME", "ok", found)


def _torch(settings: Settings) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "wrong", f"cannot be imported: {error}", "run `make install`")
        return
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    nothing = "sees no GPU" if torch.version.cuda else "CPU only"
    found = f"{torch.__version__}, {', '.join(devices) if devices else nothing}"
    if os.path.exists("/dev/nvidiactl") and not devices:
        if torch.version.cuda:
            mend = "a GPU is here and torch sees none: look at `nvidia-smi`, and where libcuda.so.1 is"
        else:
            mend = "a GPU is here but this torch is a CPU build: install `.[gpu]`"
        yield Finding("torch", "wrong", found, mend)
    elif devices and not compiler():
        mend = "kernels for GPUs are compiled where they run: install gcc and Python's headers, or name one in CC"
        yield Finding("torch", "wrong", f"{found}, and no C compiler", mend)
    else:
        yield Finding("torch", "ok", found)
    try:
        xla = version("torch_xla")
    except PackageNotFoundError:
        return
    match = xla.split(".")[:2] == torch.__version__.split(".")[:2]
    mend = (
        ""
        if match
        else f"torch_xla {xla} needs torch {'.'.join(xla.split('.')[:2])}: install `.[tpu]` in its own venv"
    )
    yield Finding("torch_xla", "ok" if match else "wrong", xla, mend)


def compiler() -> str | None:
    """The compiler that Triton would use."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def _ray(settings: Settings) -> Iterator[Finding]:
    try:
        found = version("ray")
    except PackageNotFoundError:
        yield Finding("Ray", "wrong", "is not installed", "run `make install`")
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address or address in ("auto", "local"):
        yield Finding("Ray", "ok", f"{found}, {address or 'started with each run'}")
    else:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            mend = "start Ray there, set RAY_ADDRESS to its host:port, or unset it to run on this machine"
            yield Finding("Ray", "wrong", f"{found}, cluster {address} does not answer: {error}", mend)
        else:
            yield Finding("Ray", "ok", f"{found}, cluster {address} answers")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < 2**28:
        mend = (
            "give the container more shared memory (docker run --shm-size=1g, an emptyDir of medium Memory)"
        )
        yield Finding(
            "Ray", "warning", f"/dev/shm has {shutil.disk_usage(shared).total / 2**20:.0f} MiB", mend
        )


def _ledger(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from ledger.engine import open_ledger
    from ledger.errors import LedgerError

    where = "LACUNA_DATABASE_URL" if settings.database_url else "embedded"
    try:
        engine = open_ledger(settings)
    except LedgerError as error:
        yield Finding("ledger", "wrong", str(error), "see README: without a ledger only fit and compare work")
        return
    except SQLAlchemyError as error:
        # Connected, but the tables can be neither read nor made.
        cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
        mend = "let the user of LACUNA_DATABASE_URL own the database, or create tables in its schema"
        yield Finding("ledger", "wrong", f"permissions: {cause}", mend)
        return
    with engine.connect() as connection:
        server = str(connection.execute(text("SHOW server_version")).scalar_one())
        sweeps = connection.execute(text("SELECT count(*) FROM sweeps")).scalar_one()
        asked = time.time()
        there = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        took = time.time() - asked
    engine.dispose()
    yield Finding("ledger", "ok", f"Postgres {server} ({where}), {sweeps} sweep{'s' * (sweeps != 1)}")
    yield from clock(time.time(), there + took / 2)


def clock(here: float, ledger: float) -> Iterator[Finding]:
    """This machine's clock beside the ledger's, both in seconds since 1970."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(here))
    apart = here - ledger
    mend = (
        "set it (timedatectl set-ntp true); times of workers, MLflow's charts and certificates depend on it"
    )
    if time.gmtime(here).tm_year < 2026:
        yield Finding("clock", "wrong", f"{shown} is before this release was made", mend)
    elif abs(apart) > CLOCK_SECONDS:
        ahead = "ahead of" if apart > 0 else "behind"
        yield Finding("clock", "warning", f"{shown}, {abs(apart):.0f} s {ahead} the ledger's", mend)
    else:
        yield Finding("clock", "ok", f"{shown}, {abs(apart):.1f} s from the ledger's")


def _tracking(settings: Settings) -> Iterator[Finding]:
    import httpx

    uri = settings.tracking_uri
    if uri is None or not uri.startswith("http"):
        from ledger.errors import LedgerError
        from orchestrator.tracking import store
        from orchestrator.tracking.errors import TrackingError

        try:
            store.connect(settings)
        except (TrackingError, LedgerError) as error:
            mend = "check LACUNA_TRACKING_URI; training goes on without MLflow and it catches up later"
            yield Finding("MLflow", "wrong", str(error), mend)
            return
        # Of the whole package or of its slim client.
        from mlflow.version import VERSION

        where = store.shown(uri) if uri else "on the ledger's Postgres"
        yield Finding("MLflow", "ok", f"{VERSION}, {where}")
        return
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        answer = httpx.post(address, json={"max_results": 1}, headers=headers, timeout=5)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            mend = "set MLFLOW_TRACKING_TOKEN (or MLFLOW_TRACKING_USERNAME and _PASSWORD) to what it lets in"
        else:
            mend = "check LACUNA_TRACKING_URI: it must be the root of an MLflow server that allows this host"
        yield Finding("MLflow", "wrong", f"{uri} answers {code}", mend)
        return
    except httpx.HTTPError as error:
        mend = "check LACUNA_TRACKING_URI, and that its server allows this host"
        yield Finding("MLflow", "wrong", f"{uri} does not answer: {error}", mend)
        return
    yield Finding("MLflow", "ok", f"{uri} answers")


def _storage(settings: Settings) -> Iterator[Finding]:
    """Whether checkpoints can be written, read and removed where they go."""
    import fsspec

    place = settings.storage
    probe = f"{place}/.doctor-{os.getpid()}"
    try:
        system, path = fsspec.core.url_to_fs(probe)
        system.makedirs(system._parent(path), exist_ok=True)
        system.pipe_file(path, b"lacuna")
        same = system.cat_file(path) == b"lacuna"
        system.rm_file(path)
    except ImportError as error:
        yield Finding("storage", "wrong", f"{place}: {error}", "install `.[cloud]`")
        return
    except Exception as error:
        mend = "let this user write there, or set LACUNA_STORAGE_URL"
        yield Finding("storage", "wrong", f"{place}: {type(error).__name__}: {error}"[:300], mend)
        return
    mend = "the store does not return what was written: set LACUNA_STORAGE_URL to another"
    yield Finding("storage", "ok" if same else "wrong", f"{place} can be written", "" if same else mend)
