"""A folder for each of the processes of one home that need one of its kind: no two have the same, and what a killed one
left is cleared by the next."""

from __future__ import annotations

import fcntl
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def own_folder(root: Path) -> Iterator[Path]:
    """The path of a folder below `root` that is nobody else's while the block runs. It is not there yet, and is removed
    at the end."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, lock = next(
        (number, lock)
        for number in itertools.count()
        if (lock := _locked(root / f"{number}.lock")) is not None
    )
    folder = root / str(number)
    with lock:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _locked(path: Path) -> IO[str] | None:
    """The file, locked as long as it is open, which it is no longer than its process lives; None: another's."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
