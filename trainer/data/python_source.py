"""The corpus that every machine has: Python source of the standard library and of installed packages, read in place.

Two environments with the same packages give the same documents in the same order. So files come in the order of the
SHA-256 of their path below their root (a cap then reads no more files than it needs), and whatever an installation
writes for itself is left out: byte code, build configuration, editable-install hooks, anything that names its
environment, and this project's own packages.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: This project's packages: a corpus that held them would change with every commit.
OWN = frozenset({"trainer", "ledger", "fitter", "orchestrator"})

#: Folders that hold no source, or another root's.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "lib-dynload"})

#: Larger files are tables written by programs.
LARGEST_FILE = 1 << 20


def roots() -> list[Path]:
    """The standard library and the folders of installed packages, each once."""
    paths = sysconfig.get_paths()
    found: list[Path] = []
    for name in ("stdlib", "purelib", "platlib"):
        path = Path(paths[name]).resolve()
        if path.is_dir() and path not in found:
            found.append(path)
    return found


def documents() -> Iterator[bytes]:
    """The content of each file, in an order that depends on relative paths only."""
    environment = os.fsencode(sys.prefix) if sys.prefix != sys.base_prefix else None
    for _, path in sorted((_rank(relative), path) for path, relative in _files()):
        try:
            content = path.read_bytes()
        except OSError:  # a package that is being replaced at this moment
            continue
        if environment is None or environment not in content:
            yield content


def _rank(relative: str) -> bytes:
    return hashlib.sha256(relative.encode(errors="surrogateescape")).digest()


def _files() -> Iterator[tuple[Path, str]]:
    for root in roots():
        for folder, subfolders, names in os.walk(root):
            top = folder == str(root)
            subfolders[:] = [
                name for name in subfolders if name not in SKIPPED_FOLDERS and not (top and name in OWN)
            ]
            for name in names:
                if not name.endswith(".py") or name.startswith(
                    ("__editable__", "_sysconfigdata", "sitecustomize")
                ):
                    continue
                path = Path(folder, name)
                if path.stat().st_size <= LARGEST_FILE:
                    yield path, path.relative_to(root).as_posix()
