"""The Dockerfile: lint, and what every image must say of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import transformers

from orchestrator.command.doctor import ELSEWHERE
from tests.deploy.chart import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL))
BELOW = {stage: base for base, stage in re.findall(r"^FROM (\S+) AS (\S+)", TEXT, re.MULTILINE)}
IMAGES = ("service", "controller", "mlflow", "trainer-cpu", "trainer-gpu", "trainer-tpu")


def chain(stage: str) -> list[str]:
    """A stage and those that it stands on, down to the base."""
    found = [stage]
    while found[-1] in BELOW:
        found.append(BELOW[found[-1]])
    return [name for name in found if name in BELOW]


def test_hadolint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_image_runs_as_nobody_in_particular_and_is_looked_after() -> None:
    for name in IMAGES:
        whole = "".join(STAGES[stage] for stage in chain(name))
        assert "USER 1000:1000" in whole, name
        assert "HEALTHCHECK" in whole, name
        assert "USER root" not in whole, name


def test_one_base_serves_all_and_takes_a_digest() -> None:
    assert re.findall(r"^FROM (\S*[:/]\S*) ", TEXT, re.MULTILINE) == []
    assert TEXT.index("ARG BASE_IMAGE=") < TEXT.index("FROM ${BASE_IMAGE} AS base")


def test_images_take_nothing_of_the_build_but_what_is_installed() -> None:
    for name in IMAGES:
        for stage in chain(name):
            assert stage not in ("wheels", "uv", "tools", "wheel"), name
            assert "COPY --from" not in STAGES[stage], stage


def test_what_several_images_hold_is_in_layers_below_them() -> None:
    for image, below in {
        "service": "common",
        "controller": "ray",
        "trainer-cpu": "ray",
        "ray": "common",
    }.items():
        assert below in chain(image), image


def test_the_shell_scripts_parse() -> None:
    for script, shell in (("install.sh", "sh"), ("join-ray.sh", "bash")):
        done = subprocess.run([shell, "-n", ROOT / "docker" / script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_images_keep_the_models_that_are_trained() -> None:
    kept = (ROOT / "docker" / "install.sh").read_text()
    sources = [file.read_text() for file in (ROOT / "trainer" / "models").glob("*.py")]
    names = re.findall(r"^ +from transformers import (\w+Config)\b", "\n".join(sources), re.MULTILINE)
    assert names
    for name in names:
        assert f"'*/models/{getattr(transformers, name).__module__.split('.')[2]}/*'" in kept, name


def test_an_image_for_gpus_can_compile_and_finds_the_driver() -> None:
    """Triton builds its launchers on the machine; GKE mounts libcuda where only LD_LIBRARY_PATH leads."""
    assert re.search(r"apt-get install .*\bg\+\+", STAGES["trainer-gpu"])
    assert "Python.h" in STAGES["trainer-gpu"]
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in STAGES["trainer-gpu"]


def test_doctor_is_told_what_each_image_is_spared() -> None:
    parts = {
        image: re.findall(r"LACUNA_PART=(\w+)", "".join(STAGES[stage] for stage in chain(image)))
        for image in IMAGES
    }
    parts.pop("mlflow")
    assert parts == {image: [image.partition("-")[0]] for image in parts}
    assert {part for (part,) in parts.values()} == set(ELSEWHERE)
