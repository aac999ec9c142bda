"""Prepared data between machines: a copy beside the checkpoints, and from there one on each node.

Workers elsewhere do not see the disk on which data were prepared. A copy's folder is named by the data's digest, so it
never changes; its manifest is written last, and a node trusts its own copy only after comparing all checksums.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from trainer.data.prepared import MANIFEST, Prepared, files_of, folder_of, open_prepared
from trainer.errors import DataError

#: Folder below the storage root.
FOLDER = "data"

log = logging.getLogger(__name__)


def publish(prepared: Prepared, storage: str) -> str:
    """Put a copy of prepared data below `storage` (a path, gs://…, s3://…) unless it is there; its URL.

    Raises OSError where it cannot be written.
    """
    url = _url(storage, prepared.digest)
    system, root = _system(url)
    if system.exists(f"{root}/{MANIFEST}"):
        return url
    system.makedirs(root, exist_ok=True)
    for name in prepared.files:
        system.put_file(str(prepared.path / name), f"{root}/{name}")
    log.info("prepared data %s are at %s", prepared.digest[:12], url)
    return url


def on_this_machine(path: Path, digest: str, storage: str) -> Path:
    """A folder here with the prepared data of that digest: `path` if it holds them, else a copy beside it.

    Processes of one machine that ask together fetch once. Raises DataError where there are none to be had.
    """
    here = folder_of(path.parent, digest)
    for folder in (path, here):
        if _holds(folder, digest):
            return folder
    url = _url(storage, digest)
    system, root = _system(url)
    if not system.exists(f"{root}/{MANIFEST}"):
        raise DataError(
            f"the prepared data {digest[:12]} are neither in {path} on this machine nor at {url}: "
            "run `lacuna data prepare` where the sweep was submitted, and submit it again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{here.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _holds(here, digest):
            _fetch(url, here, digest)
    return here


def _fetch(url: str, here: Path, digest: str) -> None:
    system, root = _system(url)
    for left in here.parent.glob(f".{here.name}.*/"):  # by one that was killed meanwhile: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{here.name}.", dir=here.parent))
    try:
        system.get_file(f"{root}/{MANIFEST}", str(aside / MANIFEST))
        for name in files_of(aside / MANIFEST):
            system.get_file(f"{root}/{name}", str(aside / name))
        fetched = open_prepared(aside)
        if fetched.digest != digest:
            raise DataError(f"{url} holds other data than its name says (digest {fetched.digest[:12]})")
        fetched.verify()
        shutil.rmtree(here, ignore_errors=True)
        aside.rename(here)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("prepared data %s fetched from %s", digest[:12], url)


def _holds(folder: Path, digest: str) -> bool:
    try:
        return open_prepared(folder).digest == digest
    except DataError:
        return False


def _url(storage: str, digest: str) -> str:
    return f"{storage.rstrip('/')}/{FOLDER}/{digest[:24]}"


def _system(url: str) -> tuple[Any, str]:
    import fsspec  # which most commands need not wait for

    system, root = fsspec.core.url_to_fs(url)
    return system, str(root)
