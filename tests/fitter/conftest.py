"""Fixtures of the fitter's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fitter
from fitter.law import Law
from tests.fitter.designs import OPTIMUM_T5, T5_TABLE, t5_points, table_of


@pytest.fixture(scope="session")
def t5_path() -> Path:
    """The paper's T5 runs, where they are at hand."""
    if not T5_TABLE.is_file():
        pytest.skip(f"the paper's runs are not at {T5_TABLE.name} beside the repository")
    return T5_TABLE


@pytest.fixture(scope="session")
def t5_law(t5_path: Path) -> Law:
    """The default fit of the paper's T5 runs."""
    return fitter.fit(fitter.table.read(t5_path))


@pytest.fixture(scope="session")
def noisy_table() -> dict[str, Any]:
    """A T5-shaped sweep with 0.5 % scatter."""
    return table_of(t5_points(), OPTIMUM_T5, noise=0.005)


@pytest.fixture(scope="session")
def noisy_law(noisy_table: dict[str, Any]) -> Law:
    """The default fit of `noisy_table`."""
    return fitter.fit(noisy_table)
