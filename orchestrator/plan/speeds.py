"""Measured speeds of packs, kept in a small file below LACUNA_HOME: each kind of processor measures a shape once.

Losing the file costs a second of measuring; so it is no part of the ledger.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.packing import Speed

Speeds = dict[int, Speed]


class SpeedBook:
    """Processor → likeness (`trainer.packing`) → speeds by pack size. Read anew each time: workers share it."""

    def __init__(self, home: Path) -> None:
        self._path = home / "pack-speeds.json"

    def find(self, processor: str, likeness: str) -> Speeds:
        """What this kind of processor measured; empty where it did not."""
        return _speeds(self._read().get(processor, {}).get(likeness, []))

    def anywhere(self, likeness: str) -> Speeds:
        """What any processor measured, for a plan that does not know where it will run."""
        for measured in self._read().values():
            if likeness in measured:
                return _speeds(measured[likeness])
        return {}

    def record(self, processor: str, likeness: str, speeds: Iterable[Speed]) -> None:
        """Keep a measurement. Two workers at once: the later one's file stands, the other measures again some day."""
        book = self._read()
        book.setdefault(processor, {})[likeness] = [vars(speed) for speed in speeds]
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        aside.write_text(json.dumps(book, indent=1))
        aside.replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            book = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return book if isinstance(book, dict) else {}


def _speeds(measured: Any) -> Speeds:
    return {entry["members"]: Speed(**entry) for entry in measured}
