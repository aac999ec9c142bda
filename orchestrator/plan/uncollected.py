"""Large plans without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """The block makes many objects that all stay, and no cycles. Python would look through all of them for garbage each
    time that there are a quarter more: a quarter of the time that a plan of ten thousand cells takes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
