"""The Dockerfile: lint, and what every image must say of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.chart import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL))
IMAGES = ("service", "controller", "mlflow", "trainer-cpu", "trainer-gpu", "trainer-tpu")


def test_hadolint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_image_runs_as_nobody_in_particular_and_is_looked_after() -> None:
    for name in IMAGES:
        whole = STAGES[name] + (STAGES["trainer"] if name.startswith("trainer") else "")
        assert "USER 1000:1000" in whole, name
        assert "HEALTHCHECK" in whole, name
        assert "USER root" not in whole, name


def test_one_base_serves_all_and_takes_a_digest() -> None:
    assert re.findall(r"^FROM (\S*[:/]\S*) ", TEXT, re.MULTILINE) == []
    assert TEXT.index("ARG BASE_IMAGE=") < TEXT.index("FROM ${BASE_IMAGE} AS base")


def test_images_take_nothing_of_the_build_but_the_environment() -> None:
    for name in IMAGES:
        copies = re.findall(r"^COPY --from=(\S+) (\S+)", STAGES[name], re.MULTILINE)
        assert copies == [(f"{name}-build", "/opt/lacuna")], name


def test_the_shell_scripts_parse() -> None:
    for script, shell in (("pip-install.sh", "sh"), ("join-ray.sh", "bash")):
        done = subprocess.run([shell, "-n", ROOT / "docker" / script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
