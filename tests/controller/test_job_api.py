"""A RayJob of `lacuna submit --as rayjob`, handed to Ray's own job API as KubeRay hands it over."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import Engine

from ledger.settings import Settings
from orchestrator.rayjob import CONTROLLER, as_yaml, rayjob
from tests.controller import tiny
from tests.controller.nodes import START_SECONDS, Cluster, cluster
from tests.controller.processes import ControllerProcess
from tests.controller.watching import rows, scene, until

pytest.importorskip(
    "ray.dashboard.optional_deps", reason="the job API needs ray[default]", exc_type=ImportError
)

# Not what breaks by chance, but 40 seconds: with the other clusters of several nodes.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def request_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """What KubeRay 1.7 sends in HTTPMode (its ConvertRayJobToReq); it makes up the submission's name."""
    spec = manifest["spec"]
    return {
        "entrypoint": spec["entrypoint"],
        "submission_id": manifest["metadata"]["name"],
        "entrypoint_resources": json.loads(spec["entrypointResources"]),
    }


def test_a_job_hands_its_sweep_to_the_controller_and_ends_with_it(settings: Settings, engine: Engine) -> None:
    pools = settings.home / "pools.yaml"
    pools.write_text("pools:\n  - {name: cpu, accelerator: cpu, cpus: 1}\n")
    text = tiny.spec_text(settings.home, "jobs", sparsity="[0]", steps="[20]")
    text = text.replace("execution: {", "execution: {pool: cpu, ")
    # By way of YAML, as kubectl reads it.
    manifest = yaml.safe_load(as_yaml(rayjob(text.encode(), "sweep.yaml", cluster="lacuna")))
    ours = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LACUNA_HOME": str(settings.home),
        "LACUNA_DATABASE_URL": settings.database_url or "",
        "LACUNA_POOLS": str(pools),
        "LACUNA_TRACKING_URI": f"sqlite:///{settings.home}/mlflow.db",
    }
    with cluster(dashboard=True) as nodes, job_api(nodes) as client:
        # One node stands for the controller's and the pool's.
        nodes.add("node", cores=1, resources={"pool:cpu": 1, CONTROLLER: 1}, environment=ours)
        there = {**nodes.environment, **ours, "RAY_ADDRESS": nodes.address}
        controller = ControllerProcess(settings, None, environment=there)

        def saw() -> str:
            return "\n".join([controller.tells(), nodes.tells(), scene(engine, settings.home)])

        try:
            ended = outcome(client, request_of(manifest), saw)
        finally:
            controller.kill()
    assert ended["status"] == "SUCCEEDED", ended
    assert rows(engine, "SELECT name, state FROM sweeps") == [("jobs", "completed")]
    # The controller that stays led, and the job followed it.
    assert rows(engine, "SELECT count(*) FROM controllers") == [(1,)]


@contextmanager
def job_api(nodes: Cluster) -> Iterator[httpx.Client]:
    """A client of the cluster's job API with its token, once the API answers."""
    bearer = {"Authorization": f"Bearer {nodes.environment['RAY_AUTH_TOKEN']}"}
    url = f"http://{nodes.dashboard}/api/jobs"
    with httpx.Client(base_url=url, headers=bearer, trust_env=False, timeout=START_SECONDS) as client:

        def answers() -> bool:
            try:
                return client.get("/").status_code == 200
            except httpx.TransportError:
                return False

        until(answers, saw=nodes.tells)
        yield client


def outcome(client: httpx.Client, request: dict[str, Any], saw: Callable[[], str]) -> dict[str, Any]:
    """Submit a job, and wait for its end: what the API says of it, with its log as `logs`."""
    assert client.post("/", json=request, headers={"Authorization": "Bearer another"}).status_code in (
        401,
        403,
    )
    made = client.post("/", json=request)
    assert made.status_code == 200, made.text
    job = f"/{made.json()['submission_id']}"

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(job).json()
        return found if found["status"] in ("SUCCEEDED", "FAILED", "STOPPED") else None

    return {**until(ended, saw=saw), **client.get(f"{job}/logs").json()}
