"""One Ray for all tests of a module, with its own short directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.settings import Settings
from orchestrator.controller.cluster import ray_cluster


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A private Ray with two CPUs; controllers of the module use it."""
    home = Path(tempfile.mkdtemp(prefix="lr-"))
    with ray_cluster(Settings(home=home), cores=2):
        yield
    shutil.rmtree(home, ignore_errors=True)
