"""The journal of a spool: a worker's metric points on its own disk, until the ledger has them.

Each point is one short write to a file that is opened for appending, so it is there after kill -9 of its writer. (It
need not outlive a crash of the machine: what the last noted checkpoint does not cover is measured anew.) The writer
holds a lock on the file that the kernel drops with the process. A file whose lock is to be had belongs to nobody:
whoever finds it brings its points to the ledger and removes it. The ledger takes a point once, so no order of crashes
does harm.

Between the points stands how many OOM kills its writer knew of (`orchestrator.tracking.oom`): where there are more by
the time that it is found, its writer was one of them. Its first line names the writer's log: a killed worker says
nothing, but its last log lines go into the reason of its attempt.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, points
from ledger.engine import normalized
from orchestrator.tracking.oom import OomKills

#: Bytes after which a journal is written anew, with what the ledger does not have yet.
LARGEST = 4 * 2**20

#: What a line of OOM kills begins with: a count and a path follow.
_KILLS = "oom_kill"

#: What the line begins with that names the writer's log, and how much of that log's end is read, in bytes and lines.
_LOG = "log"
_LOG_BYTES, _LOG_LINES = 8192, 20

log = logging.getLogger(__name__)

#: Step, name, value.
Row = tuple[int, str, float]


class Journal:
    """The file of one attempt's points. A disk that takes no more costs the journal, never the training."""

    def __init__(self, folder: Path, segment_key: str, attempt_id: int, log_file: Path | None = None) -> None:
        self._head = b"" if log_file is None else f"{_LOG} {log_file}\n".encode()
        self._path = folder / f"{segment_key}.{attempt_id}"
        self._size = 0
        self._file: IO[bytes] | None = None
        self._kills = OomKills.here()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _opened(self._path)
            self._size += self._file.write(self._head + _told(self._kills))
        except OSError as error:
            self._give_up(error)

    def append(self, step: int, name: str, value: float) -> None:
        """Write a point down."""
        if self._file is not None:
            try:
                self._size += self._file.write(_line(step, name, value))
            except OSError as error:
                self._give_up(error)

    def keep(self, rows: Iterable[Row]) -> None:
        """The ledger has all but these: forget the others, once there are many. Asked with each heartbeat."""
        self._notice()
        if self._file is None or self._size < LARGEST:
            return
        content = self._head + _told(self._kills) + b"".join(_line(*row) for row in rows)
        aside = self._path.with_name(f".{self._path.name}")
        try:
            file = _opened(aside)
            file.write(content)
            aside.replace(self._path)
        except OSError as error:
            self._give_up(error)
            return
        self._file.close()
        self._file, self._size = file, len(content)

    def close(self, *, remove: bool) -> None:
        """Write no more. `remove`: the ledger has it all, or wants none of it; else `replay` will take it there."""
        if self._file is not None:
            if remove:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _notice(self) -> None:
        """An OOM kill that this process lived to see was another's."""
        if self._file is None or self._kills is None or (now := self._kills.now()) == self._kills:
            return
        self._kills = now
        try:
            self._size += self._file.write(_told(now))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("metric points wait in memory only, %s cannot be written: %s", self._path, error.strerror)
        self.close(remove=False)


def folder_of(home: Path, ledger_url: str) -> Path:
    """Where the journals of points for one ledger lie: a home may have had several."""
    name = normalized(ledger_url).render_as_string(hide_password=True)
    return home / "spool" / hashlib.sha256(name.encode()).hexdigest()[:12]


def replay(engine: Engine, folder: Path) -> int:
    """Bring the points of dead workers to the ledger, their last log lines, and whether the kernel killed them for
    their memory; how many points it did not have. Raises sqlalchemy's errors."""
    new = 0
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        file = _nobodys(path)
        if file is None:
            continue
        with file:
            # A hidden one is the copy that `keep` was writing.
            if not path.name.startswith("."):
                key, _, attempt = path.name.partition(".")
                lines = list(file)
                with Session(engine) as session, session.begin():
                    new += points.replay(session, key, _rows(lines))
                    if (known := _kills(lines)) is not None and (now := known.now()).count > known.count:
                        attempts.killed_for_memory(
                            session,
                            key,
                            int(attempt),
                            f"the kernel killed the worker for want of memory: oom_kill {known.count} → {now.count} in "
                            f"{now.path} on {socket.gethostname()}",
                        )
                    if last := _last_log_lines(lines):
                        attempts.last_words(session, key, int(attempt), last)
            with suppress(OSError):
                path.unlink()
    return new


def _line(step: int, name: str, value: float) -> bytes:
    return f"{step} {name} {float(value)!r}\n".encode()


def _told(kills: OomKills | None) -> bytes:
    return b"" if kills is None else f"{_KILLS} {kills.count} {kills.path}\n".encode()


def _kills(lines: Iterable[bytes]) -> OomKills | None:
    """The last OOM kills that the writer knew of."""
    found = None
    for line in lines:
        head, _, rest = line.decode(errors="replace").rstrip("\n").partition(" ")
        count, _, path = rest.partition(" ")
        if head == _KILLS and count.isdecimal() and line.endswith(b"\n"):
            found = OomKills(Path(path), int(count))
    return found


def _last_log_lines(lines: Iterable[bytes]) -> str:
    """The end of the log that a journal names; empty where it names none, or it cannot be read."""
    for line in lines:
        head, _, path = line.decode(errors="replace").rstrip("\n").partition(" ")
        if head == _LOG:
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                    text = file.read().decode(errors="replace")
            except OSError:
                return ""
            return "\n".join(text.splitlines()[-_LOG_LINES:])
    return ""


def _opened(path: Path) -> IO[bytes]:
    """The file to append to, locked."""
    while True:
        file = path.open("ab", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        if _lies_at(file, path):
            return file
        # Found between its making and its locking, taken for a dead worker's, and removed.
        file.close()


def _nobodys(path: Path) -> IO[bytes] | None:
    """The file, locked; None where somebody writes it, it is gone by now, or it is another account's."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another may have taken it away, or its writer put another in its place, before the lock was ours.
        if _lies_at(file, path):
            return file
    except OSError:
        pass
    file.close()
    return None


def _lies_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _rows(lines: Iterable[bytes]) -> list[Row]:
    """The points of finished steps. The last step's may be half there, as may be the last line, or one that a full disk
    cut short or a loss of power filled with zeros: whoever goes on from the last checkpoint measures such steps anew,
    with all their names."""
    found: list[Row] = []
    for line in lines:
        try:
            step, name, value = line.decode().split()
            if line.endswith(b"\n") and name.isprintable():
                found.append((int(step), name, float(value)))
        except ValueError:
            continue
    return [row for row in found if row[0] < found[-1][0]]
