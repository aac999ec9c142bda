"""Prepare a source once: encode it on all cores, split by content, publish by one rename, go on after a kill.

A document's SHA-256 decides whether it is held out, and a second document with the same content is dropped, so
nothing of the validation set is ever trained on. The folder is named by the digest of what is in it; a small file
named by the source's fingerprint says which folder that is.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import documents, images
from trainer.data.encoding import Encoder, encoded, encoder_for
from trainer.data.prepared import FORMAT, MANIFEST, Prepared, digest_of, folder_of, open_prepared
from trainer.data.shards import JOURNAL, SHARD_BYTES, SPLITS, ShardWriter
from trainer.data.source import DataSource
from trainer.data.units import UNIT_BYTES, Unit, units
from trainer.errors import DataError

log = logging.getLogger(__name__)


def find(source: DataSource, root: Path) -> Prepared | None:
    """The data if they lie prepared below `root`, else None. Reads the manifest only. Raises DataError as `local`."""
    pointer = _pointer(source, root)
    try:
        digest = json.loads(pointer.read_text())["digest"]
    except FileNotFoundError:
        return None
    folder = folder_of(Path(root), digest)
    return open_prepared(folder) if (folder / MANIFEST).exists() else None


def prepare(
    source: DataSource,
    root: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    unit_bytes: int = UNIT_BYTES,
    shard_bytes: int = SHARD_BYTES,
) -> Prepared:
    """The data below `root`, prepared now unless they are there already.

    workers: processes that encode; None: one a core. The result does not depend on it. `progress` is called now and
    then with the number of training tokens (or images) so far. Of processes that prepare the same source at once, one
    works and the others wait for it. Killed, the next call goes on after the last unit that was finished: the source
    is read again up to there, and nothing is encoded twice. unit_bytes, shard_bytes: see `units` and `shards`; they
    are part of what a result is. Raises DataError where the source cannot be read, OSError where the disk fails.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with _alone(_beside(source, root, ".lock")):
        present = find(source, root)
        if present is not None:
            return present
        aside = _beside(source, root, "")
        cores = workers or len(os.sched_getaffinity(0))
        manifest = _Preparation(source, aside, root / "cache", cores, progress, unit_bytes, shard_bytes).run()
        # Before the folder is there, the pointer points to nothing, which `find` takes for nothing.
        _write_whole(_pointer(source, root), json.dumps({"digest": manifest["digest"]}))
        return _published(aside, folder_of(root, manifest["digest"]))


class _Preparation:
    """One source on its way into the folder `aside`."""

    def __init__(
        self,
        source: DataSource,
        aside: Path,
        cache: Path,
        workers: int,
        progress: Callable[[int], None] | None,
        unit_bytes: int,
        shard_bytes: int,
    ) -> None:
        self._source, self._aside, self._cache = source, aside, cache
        self._workers, self._progress = workers, progress
        self._sizes = (unit_bytes, shard_bytes)

    def run(self) -> dict[str, Any]:
        """Write shards and manifest. Raises DataError and OSError; what was committed is kept for the next call."""
        writer, encoder, todo = self._begun()
        try:
            self._fill(writer, encoder, todo)
        except BaseException:
            writer.close()
            if not writer.done:
                shutil.rmtree(self._aside, ignore_errors=True)
            raise
        count = sum(line["documents"] for line in writer.done)
        itemsize = np.dtype(encoder.dtype).itemsize
        files = {split: _file_facts(shards, itemsize) for split, shards in writer.close().items()}
        for split in SPLITS:
            if not files[split]["tokens"]:
                shutil.rmtree(self._aside, ignore_errors=True)
                raise DataError(
                    f"{self._source.source!r} gives no {split} tokens from {count} different documents: "
                    "it needs more documents, or another validation_share"
                )
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "source": dataclasses.asdict(self._source),
            "fingerprint": self._source.fingerprint(),
            "dtype": np.dtype(encoder.dtype).name,
            "documents": count,
            "files": files,
            **encoder.facts(),
        }
        manifest["digest"] = digest_of(manifest)
        _write_whole(self._aside / MANIFEST, json.dumps(manifest, indent=1))
        (self._aside / JOURNAL).unlink()
        return manifest

    def _begun(self) -> tuple[ShardWriter, Encoder, Iterator[Unit]]:
        """What an earlier call left, and the units that it lacks; all from nothing if the source is another by now."""
        encoder = encoder_for(self._source, self._cache)
        try:
            writer = ShardWriter(self._aside, self._sizes[1])
            todo = self._units()
            for line in writer.done:
                unit = next(todo, None)
                if unit is None or unit.digest != line["unit"]:
                    raise ValueError("the source no longer gives the documents that were prepared so far")
                encoder.merge(line["seen"])
            return writer, encoder, todo
        except (ValueError, KeyError, TypeError, FileNotFoundError) as reason:
            log.warning("preparing %s from the beginning: %s", self._source.source, reason)
            shutil.rmtree(self._aside, ignore_errors=True)
        encoder = encoder_for(self._source, self._cache)
        return ShardWriter(self._aside, self._sizes[1]), encoder, self._units()

    def _fill(self, writer: ShardWriter, encoder: Encoder, todo: Iterator[Unit]) -> None:
        """Commit unit after unit, up to the cap."""
        itemsize = np.dtype(encoder.dtype).itemsize
        if self._is_full(writer, encoder, itemsize):
            return
        for done in encoded(todo, encoder, self._source, self._cache, self._workers):
            encoder.merge(done.seen)
            parts = dict(done.parts)
            if limit := self._limit(encoder):
                parts["train"] = parts["train"][: limit * itemsize - writer.bytes_in("train")]
            line = {"unit": done.unit.digest, "documents": len(done.unit.contents), "seen": done.seen}
            writer.commit(parts, line)
            if self._progress is not None:
                self._progress(writer.bytes_in("train") // itemsize // self._row(encoder))
            if self._is_full(writer, encoder, itemsize):
                return

    def _units(self) -> Iterator[Unit]:
        read = images.stream if self._source.holds_images else documents.stream
        return units(read(self._source, self._cache), self._source.validation_share, self._sizes[0])

    def _row(self, encoder: Encoder) -> int:
        return int(encoder.facts().get("row", 1))

    def _limit(self, encoder: Encoder) -> int:
        """The cap in items of the array; 0: none."""
        return self._source.max_tokens * self._row(encoder)

    def _is_full(self, writer: ShardWriter, encoder: Encoder, itemsize: int) -> bool:
        limit = self._limit(encoder)
        return bool(writer.done) and 0 < limit * itemsize <= writer.bytes_in("train")


def _published(aside: Path, folder: Path) -> Prepared:
    try:
        present = open_prepared(folder)  # another source, or another process, gave the same arrays
        shutil.rmtree(aside)
        return present
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
    os.rename(aside, folder)
    prepared = open_prepared(folder)
    prepared.note_verified()
    return prepared


def _file_facts(shards: list[tuple[int, str]], itemsize: int) -> dict[str, Any]:
    facts = [{"tokens": size // itemsize, "sha256": digest} for size, digest in shards]
    return {"tokens": sum(size for size, _ in shards) // itemsize, "shards": facts}


def _beside(source: DataSource, root: Path, ending: str) -> Path:
    return root / f".{source.fingerprint()[:24]}{ending}"


def _pointer(source: DataSource, root: Path) -> Path:
    return Path(root) / f"{source.fingerprint()[:24]}.json"


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
