"""Which service of a LACUNA_HOME runs.

One service a LACUNA_HOME: it holds a lock on `serve.lock` as long as it lives (the kernel drops a dead process's lock)
and writes what it is to `serve.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import click

from ledger.settings import Settings


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


def show(record: Record) -> None:
    """The three addresses; MLflow takes some seconds longer to start than the service."""
    mlflow = record.mlflow_url or "not running"
    if record.mlflow_pid is not None and not answers(f"{record.mlflow_url}/health"):
        mlflow += "  (starting)"
    click.echo(f"page    {record.url}/")
    click.echo(f"MLflow  {mlflow}")
    click.echo(f"REST    {record.url}/v1  (try it out: {record.url}/docs)")


def answers(url: str) -> bool:
    """Whether a GET of that URL, of a server on this machine, is answered with 200."""
    import httpx

    address = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    try:
        return httpx.get(address, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def service_lock(settings: Settings) -> Iterator[bool]:
    """Whether this process holds the lock of a service; False where another one does."""
    lock: IO[str]
    with (settings.home / "serve.lock").open("w") as lock:
        # A second, because whoever asks `is_running` at this moment holds the lock for an instant.
        for _ in range(20):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                yield True
                return
        yield False


def is_running(settings: Settings) -> bool:
    with (settings.home / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def running(settings: Settings) -> dict[str, Any] | None:
    """What `serve.json` says of a service that runs; None where none does."""
    record = Record.read(settings.home / "serve.json")
    return asdict(record) if record is not None and is_running(settings) else None
