"""A sweep as a RayJob: what KubeRay 1.7 demands of one (kept by hand), and a spec that arrives letter by letter."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.command.main import cli
from orchestrator.rayjob import CONTROLLER, LARGEST_SPEC, LONGEST_NAME, as_yaml, given, name_of, rayjob
from orchestrator.spec import SpecError
from tests.orchestrator.texts import SMALL

AWKWARD = (
    SMALL.replace("name: small", 'name: small.sweep_1  # it\'s `$HOME`, "$(id)" and \\n, → ü\t\n') + "\n\n"
)


def job(text: str = AWKWARD) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(as_yaml(rayjob(text.encode(), "sweep.yaml", cluster="lab")))
    return made


def test_kuberay_takes_a_job_for_a_cluster_that_is_there() -> None:
    made = job()
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made["metadata"]["name"])
    assert all(
        re.fullmatch(r"[a-z0-9]([\w.-]{0,61}[a-z0-9])?", v) for v in made["metadata"]["labels"].values()
    )
    # Kueue manages no job for a cluster of others, and would refuse its queue.
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]
    # With a selector KubeRay refuses backoffLimit, suspend and a cluster of the job's own; and this one must stay.
    assert set(made["spec"]) == {"clusterSelector", "submissionMode", "entrypointResources", "entrypoint"}
    assert made["spec"]["clusterSelector"] == {"ray.io/cluster": "lab"}
    # The other modes would put the entrypoint through a second shell.
    assert made["spec"]["submissionMode"] == "HTTPMode"
    assert json.loads(made["spec"]["entrypointResources"]) == {CONTROLLER: 0.001}


@pytest.mark.parametrize("text", [AWKWARD, "a\nEND_OF_SPEC\nEND_OF_SPEC_\nb"])
def test_a_command_gets_a_text_letter_by_letter(text: str) -> None:
    done = subprocess.run(["/bin/sh", "-c", given("cat -", text)], capture_output=True, check=True)
    assert done.stdout.decode() == text.rstrip("\n") + "\n"


def test_the_entrypoint_runs_the_spec() -> None:
    assert job()["spec"]["entrypoint"] == given("lacuna run -", AWKWARD)


def test_the_same_spec_is_the_same_object_and_a_grown_grid_another() -> None:
    assert job()["metadata"]["name"] == job(AWKWARD + "# a comment\n")["metadata"]["name"]
    grown = AWKWARD.replace("steps: [", "steps: [640, ")
    assert grown != AWKWARD
    assert job()["metadata"]["name"] != job(grown)["metadata"]["name"]


@pytest.mark.parametrize("sweep", ["1", "a.b_c", "x" * 63, "a-" * 31 + "a"])
def test_every_name_of_a_sweep_gives_a_name_that_kuberay_takes(sweep: str) -> None:
    name = name_of(sweep, "0123456789abcdef")
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= LONGEST_NAME


@pytest.mark.parametrize(
    ("more", "problem"),
    [("# " + "x" * LARGEST_SPEC, "--api URL"), ("nmae: x\n", "nmae")],
)
def test_what_cannot_be_a_job_is_refused(more: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        job(SMALL + more)


def test_the_command_prints_what_kubectl_takes() -> None:
    printed = CliRunner().invoke(cli, ["submit", "-", "--as", "rayjob", "--cluster", "lab"], input=AWKWARD)
    assert printed.exit_code == 0, printed.output
    assert yaml.safe_load(printed.stdout) == job()
    told = CliRunner().invoke(
        cli, ["submit", "-", "--as", "rayjob", "--cluster", "lab", "--json"], input=AWKWARD
    )
    assert json.loads(told.stdout) == job()
    both = CliRunner().invoke(
        cli, ["submit", "-", "--as", "rayjob", "--api", "http://127.0.0.1:1"], input=AWKWARD
    )
    assert both.exit_code == 2
    assert "leave --api out" in both.stderr
