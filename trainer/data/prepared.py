"""Prepared data: a folder with two memory-mapped arrays, in shards, and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.array import ShardedArray
from trainer.data.shards import SPLITS, shard_name
from trainer.errors import DataError

#: Raised whenever the layout of a prepared folder changes.
FORMAT = 3

MANIFEST = "manifest.json"

#: Says that the checksums were compared, and with which files; never part of a copy.
VERIFIED = "verified.json"


@dataclass(frozen=True)
class Prepared:
    """An opened folder of prepared data.

    digest: SHA-256 of the arrays' checksums and the tokenizer's identity; goes into `DataStream.digest`.
    train_tokens, validation_tokens: lengths of the arrays, end-of-document tokens counted.
    """

    path: Path
    digest: str
    train_tokens: int
    validation_tokens: int
    vocab_size: int
    tokenizer: str
    manifest: dict[str, Any]

    def array(self, split: str) -> ShardedArray:
        """The items of `train` or `validation`: token ids, in which documents end with `eos`; bytes, for images."""
        shards = self.manifest["files"][split]["shards"]
        paths = [self.path / shard_name(split, number) for number in range(len(shards))]
        return ShardedArray(paths, [shard["tokens"] for shard in shards], np.dtype(self.manifest["dtype"]))

    def tokens(self, split: str) -> NDArray[Any]:
        """All items of `train` or `validation` as one array, read-only where it is mapped."""
        return self.array(split).whole()

    @property
    def files(self) -> list[str]:
        """The names of the folder's files, the manifest last: all that a copy needs."""
        return [*files_of(self.path / MANIFEST), MANIFEST]

    @property
    def eos(self) -> int:
        """The id that ends every document."""
        return int(self.manifest["eos"])

    @property
    def sentinels(self) -> list[int]:
        """Ids of the sentinels of span corruption, in their order of use."""
        return [int(value) for value in self.manifest["sentinels"]]

    @property
    def mask(self) -> int | None:
        """The id that hides a token from a masked language model; None where the vocabulary has none."""
        value = self.manifest["mask"]
        return None if value is None else int(value)

    def verify(self) -> None:
        """Read everything and compare with the checksums. Raises DataError that names the file."""
        for name, shard in _shards(self.manifest).items():
            if _sha256(self.path / name) != shard["sha256"]:
                raise DataError(
                    f"{self.path / name} was altered since it was prepared: delete {self.path} and prepare it again"
                )
        self.note_verified()

    def verify_once(self) -> None:
        """`verify`, unless that was done for these very files (inode, size and times tell). Raises as it does."""
        try:
            noted = json.loads((self.path / VERIFIED).read_text())
        except (OSError, ValueError):
            noted = None
        if noted != self._stamp() and self._stamp() not in _verified_here:
            self.verify()

    def note_verified(self) -> None:
        """Remember that the files are those of the manifest: in the folder, and for this process if it is read-only."""
        _verified_here.append(self._stamp())
        aside = self.path / f"{VERIFIED}.{os.getpid()}"
        with suppress(OSError):
            aside.write_text(json.dumps(self._stamp()))
            os.replace(aside, self.path / VERIFIED)

    def _stamp(self) -> list[list[int]]:
        found = [(self.path / name).stat() for name in _shards(self.manifest)]
        return [[facts.st_ino, facts.st_size, facts.st_mtime_ns] for facts in found]


#: Stamps of data that this process has verified.
_verified_here: list[list[list[int]]] = []


def folder_of(root: Path, digest: str) -> Path:
    """Where the prepared data of that digest lie below `root`."""
    return root / digest[:24]


def files_of(manifest: Path) -> list[str]:
    """The names of the arrays that a manifest's file describes."""
    return list(_shards(json.loads(manifest.read_text())))


def digest_of(manifest: dict[str, Any]) -> str:
    """The digest of the arrays that a manifest describes."""
    sums = [[shard["sha256"] for shard in manifest["files"][split]["shards"]] for split in SPLITS]
    facts = [manifest["tokenizer"], manifest["dtype"], sums]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _shards(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        shard_name(split, number): shard
        for split in SPLITS
        for number, shard in enumerate(manifest["files"][split]["shards"])
    }


def open_prepared(path: Path) -> Prepared:
    """The prepared data in a folder. Raises DataError naming the file that is missing, cut short or too new."""
    path = Path(path)
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError(
            f"{path} holds no prepared data ({MANIFEST} is missing): run `lacuna data prepare`"
        ) from None
    except ValueError:
        raise DataError(f"{file} is no valid JSON: delete {path} and prepare it again") from None
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{file} has format {manifest.get('format')}, this version reads {FORMAT}: prepare it again"
        )
    width = np.dtype(manifest["dtype"]).itemsize
    for name, shard in _shards(manifest).items():
        array, expected = path / name, shard["tokens"] * width
        size = array.stat().st_size if array.exists() else -1
        if size != expected:
            raise DataError(
                f"{array} has {max(size, 0)} bytes, its manifest says {expected}: delete {path} and prepare it again"
            )
    if manifest["digest"] != digest_of(manifest):
        raise DataError(f"{file} was altered: its digest is not that of its arrays; prepare it again")
    return Prepared(
        path=path,
        digest=manifest["digest"],
        train_tokens=manifest["files"]["train"]["tokens"],
        validation_tokens=manifest["files"]["validation"]["tokens"],
        vocab_size=manifest["vocab_size"],
        tokenizer=manifest["tokenizer"],
        manifest=manifest,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
