"""Data, prepared once to a memory-mapped array; batch i of a run is a pure function of (seed, i)."""

from trainer.data.prepare import find, prepare
from trainer.data.prepared import Prepared, open_prepared
from trainer.data.source import DataSource

__all__ = ["DataSource", "Prepared", "find", "open_prepared", "prepare"]
