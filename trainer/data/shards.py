"""The arrays of prepared data while they are being written: appended unit by unit, never lost by a kill.

A split is one long array in files of at least SHARD_BYTES, cut between units only. The journal gets a line when a
unit's bytes are on disk; whoever comes after a kill cuts the files back to what the last line says and goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation")

#: A shard is closed when it has so many bytes.
SHARD_BYTES = 256 << 20

JOURNAL = "journal.jsonl"


def shard_name(split: str, number: int) -> str:
    """The file of a split's shard, numbered from 0."""
    return f"{split}-{number:05d}.bin"


class ShardWriter:
    """Appends units to the shards in `folder`, which it makes; `done` has the journal's lines so far.

    Raises OSError where the disk fails; what was committed before stays.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._shard_bytes = shard_bytes
        self.done: list[dict[str, Any]] = _intact_lines(folder / JOURNAL)
        self._journal = (folder / JOURNAL).open("ab")
        sizes = self.done[-1]["shards"] if self.done else {split: [] for split in SPLITS}
        self._splits = {split: _Split(folder, split, sizes[split]) for split in SPLITS}

    def bytes_in(self, split: str) -> int:
        """Bytes of a split that are committed."""
        return sum(self._splits[split].sizes)

    def commit(self, parts: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        """Append one unit's bytes to each split and note it, with `facts`, in the journal."""
        for split in SPLITS:
            self._splits[split].append(parts[split], self._shard_bytes)
        line = {**facts, "shards": {split: self._splits[split].sizes for split in SPLITS}}
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self.done.append(json.loads(json.dumps(line)))

    def close(self) -> dict[str, list[tuple[int, str]]]:
        """Close the files: split → (bytes, SHA-256) of each shard. All that was committed can be taken up again."""
        self._journal.close()
        return {split: self._splits[split].close() for split in SPLITS}


class _Split:
    """One split's shards; the last one is open for appending, with its checksum up to date."""

    def __init__(self, folder: Path, split: str, sizes: list[int]) -> None:
        self._folder, self._split = folder, split
        self.sizes = list(sizes) or [0]
        for stale in folder.glob(f"{split}-*.bin"):
            if stale.name >= shard_name(split, len(self.sizes)):
                stale.unlink()
        # Closed shards are read once more: their checksums are not in the journal, so it cannot be wrong about them.
        self._sums = [_sha256(self._path(number), size) for number, size in enumerate(self.sizes[:-1])]
        last = self._path(len(self.sizes) - 1)
        self._hash = _sha256(last, self.sizes[-1], make=True)
        self._file = last.open("ab")

    def _path(self, number: int) -> Path:
        return self._folder / shard_name(self._split, number)

    def append(self, data: bytes, shard_bytes: int) -> None:
        if self.sizes[-1] >= shard_bytes:
            self._file.close()
            self._sums.append(self._hash)
            self.sizes.append(0)
            self._hash = hashlib.sha256()
            self._file = self._path(len(self.sizes) - 1).open("wb")
        self._file.write(data)
        self._hash.update(data)
        self.sizes[-1] += len(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> list[tuple[int, str]]:
        self._file.close()
        sums = [*self._sums, self._hash]
        return [(size, found.hexdigest()) for size, found in zip(self.sizes, sums, strict=True)]


def _sha256(path: Path, size: int, *, make: bool = False) -> Any:
    """The running SHA-256 of the first `size` bytes, to which the file is cut. Raises OSError if it has fewer."""
    if make:
        path.touch()
    if path.stat().st_size < size:
        raise OSError(f"{path} has fewer bytes than its journal says")
    os.truncate(path, size)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _intact_lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's whole lines; a line that a kill cut short is cut off."""
    if not journal.exists():
        return []
    whole, newline, _ = journal.read_bytes().rpartition(b"\n")
    os.truncate(journal, len(whole) + len(newline))
    return [json.loads(line) for line in whole.splitlines()]
