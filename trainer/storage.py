"""Folders of a few files, written whole and published by one step, on a local path or any fsspec URL.

Locally a folder is written aside, flushed to disk and renamed. Object stores have no rename: there the files go
first and the manifest last, and a folder without its manifest does not count as written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The file whose presence says that a folder is complete.
MANIFEST = "manifest.json"


def join(url: str, name: str) -> str:
    """`name` below `url`."""
    return f"{url.rstrip('/')}/{name}"


def publish(url: str, files: Mapping[str, bytes]) -> None:
    """Make the folder `url` with these files (MANIFEST among them) appear at once; a folder already there is replaced.

    Raises OSError where it cannot be written.
    """
    path = _local(url)
    if path is None:
        system, root = _remote(url)
        for name in sorted(files, key=lambda name: name == MANIFEST):
            system.pipe_file(join(root, name), files[name])
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            with (aside / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        aside.chmod(0o755)
        if path.exists():
            # A rename cannot replace a folder that holds files; the old one steps aside first.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            os.rename(path, old / path.name)
            os.rename(aside, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(aside, path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read(url: str, name: str) -> bytes:
    """The content of one file of a folder. Raises FileNotFoundError where there is none."""
    path = _local(url)
    if path is not None:
        return (path / name).read_bytes()
    system, root = _remote(url)
    content: bytes = system.cat_file(join(root, name))
    return content


def names(url: str, *, hidden: bool = False) -> list[str]:
    """Names of the entries of a folder, sorted, of hidden ones where they are asked for; none where there is no such
    folder."""
    path = _local(url)
    if path is not None:
        there = path.iterdir() if path.is_dir() else ()
        return sorted(entry.name for entry in there if hidden or entry.name[0] != ".")
    system, root = _remote(url)
    try:
        listed = system.ls(root, detail=False, refresh=True)
    except FileNotFoundError:
        return []
    return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in listed)


def discard(url: str) -> None:
    """Remove a folder; nothing happens where there is none."""
    path = _local(url)
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
        return
    system, root = _remote(url)
    if system.exists(root):
        system.rm(root, recursive=True)


def _local(url: str) -> Path | None:
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url else Path(url)


def _remote(url: str) -> tuple[Any, str]:
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    return system, str(root)


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
