"""What may be imported where."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["trainer", "trainer.program", "trainer.shapes", "trainer.errors"])
def test_planning_needs_no_torch(module: str) -> None:
    statement = f"import {module}"
    if module == "trainer.shapes":
        statement += "; trainer.shapes.shape_for('t5', 1e7, {})"
    assert not _loaded(statement) & {"torch", "numpy", "transformers", "datasets"}


def test_training_needs_no_data_or_cluster_libraries() -> None:
    loaded = _loaded("import trainer.segment")
    assert not loaded & {"datasets", "fsspec", "ray", "sqlalchemy", "mlflow", "pydantic", "pandas", "pyarrow"}
