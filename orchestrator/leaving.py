"""A node that is about to go gives its workers the time to write their state.

A Pod that is drained, preempted or scaled away runs its preStop hook first. `ray stop` would end the workers within a
second, and what they had trained since their last checkpoint would be done again. So the hook is

    python -m orchestrator.leaving --within 105 -- ray stop --grace-period 5

As long as it runs, the workers of its machine stop at the step they are at, write a checkpoint, give their segments
back and take up nothing more; as soon as none of them holds one, and at the latest after so many seconds, the command
is run.

Both sides meet on two files below LACUNA_HOME, named by the host (several may share a home): the hook locks the one,
the workers the other while they hold segments. A lock goes with its process, so nothing that is killed leaves a notice
behind.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ledger.settings import Settings

#: Seconds between two looks at the other side's lock.
_POLL = 0.2


def noticed(home: Path) -> bool:
    """Whether this machine is about to go."""
    with _file(home, "leaving") as file:
        return not _locked(file, fcntl.LOCK_SH)


def wait_for_end(home: Path) -> None:
    """Return when nobody says any more that this machine goes: most often the process ends before."""
    while noticed(home):
        time.sleep(_POLL)


@contextmanager
def busy(home: Path) -> Iterator[None]:
    """While this process holds segments."""
    with _file(home, "busy") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def leaving(home: Path, within: float) -> Iterator[bool]:
    """Tell the workers of this machine that it goes, for as long as the block runs, which begins when none of them
    holds a segment (True), or after `within` seconds (False)."""
    with _file(home, "leaving") as notice, _file(home, "busy") as held:
        fcntl.flock(notice, fcntl.LOCK_EX)
        deadline = time.monotonic() + within
        while not (free := _locked(held, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(_POLL)
        # A worker that begins now sees the notice; it must not wait for this lock instead.
        fcntl.flock(held, fcntl.LOCK_UN)
        yield free


@contextmanager
def _file(home: Path, what: str) -> Iterator[int]:
    home.mkdir(parents=True, exist_ok=True)
    file = os.open(home / f"{what}-{socket.gethostname()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The hook. Exit code: the command's."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.leaving", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--within", type=float, required=True, help="seconds for the workers to write their state"
    )
    parser.add_argument("command", nargs="+", help="what is run then, after --")
    told = parser.parse_args(arguments)
    with leaving(Settings.from_environment().home, told.within) as free:
        if not free:
            print(f"workers still held segments after {told.within:g} s", file=sys.stderr)
        return subprocess.run(told.command).returncode


if __name__ == "__main__":
    sys.exit(main())
