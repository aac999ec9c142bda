"""Ending processes that this command started."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

STOP_SECONDS = 15
"""Seconds between asking a process to end and ending it."""


def end(pid: int) -> None:
    """Ask a process to end, and end it where it does not."""
    _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    if alive(pid):
        _signal(pid, signal.SIGKILL)


def end_group(pid: int) -> None:
    """The same for a process that leads a group, and for what it started."""
    _signal(-pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(-pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
