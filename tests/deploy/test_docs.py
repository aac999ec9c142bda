"""docs/kubernetes.md: every command that can run without a cluster runs; what the others name is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from fitter.service import create_app
from ledger.models import Sweep
from ledger.settings import Settings
from orchestrator.command.main import cli
from orchestrator.command.serve_submit import planner
from tests.deploy.chart import CHART, ROOT, Manifest, Values, manifests, merged, of_kind, profile
from tests.service import grid
from tests.service.serving import serving

TEXT = (ROOT / "docs" / "kubernetes.md").read_text()
COMMANDS = [line.removeprefix("$ ") for line in TEXT.splitlines() if line.startswith("$ ")]
SECTIONS = dict(re.findall(r"^### (.+?)\n(.+?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))

#: The values file of each road, and what a spec there says of its pool.
ROADS = {
    "kind, on your own machine": ("laptop", "pool: cpu"),
    "GKE with TPUs": ("gke-tpu", "pool: tpu-small, device: xla"),
    "GKE with GPUs": ("gke-gpu", "pool: l4, device: cuda"),
    "EKS with GPUs": ("eks-gpu", "pool: l4, device: cuda"),
}


def commands(section: str) -> list[str]:
    return [line.removeprefix("$ ") for line in SECTIONS[section].splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("section", ROADS)
def test_a_road_has_ten_commands_and_ends_with_a_law(section: str) -> None:
    assert len(commands(section)) == 10
    assert commands(section)[-1].startswith("lacuna law ")


@pytest.mark.parametrize("section", ROADS)
def test_the_installation_renders(section: str) -> None:
    (line,) = [command for command in commands(section) if command.startswith("helm install lacuna ")]
    words = shlex.split(line)
    assert ROOT / words[3] == CHART
    (file,) = [words[i + 1] for i, word in enumerate(words) if word == "--values"]
    assert (ROOT / file).name == f"values-{ROADS[section][0]}.yaml"
    settings: Values = {}
    for i, word in enumerate(words):
        if word == "--set":
            key, _, value = words[i + 1].partition("=")
            for part in reversed(key.split(".")):
                value = {part: value}  # type: ignore[assignment]
            settings = merged(settings, value)  # type: ignore[arg-type]
    objects = manifests(merged(yaml.safe_load((ROOT / file).read_text()), settings))
    assert of_kind(objects, "RayCluster")


@pytest.mark.parametrize("section", ROADS)
def test_the_sweep_can_be_planned_on_the_pools_of_the_road(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pool = ROADS[section]
    assert f"s/pool: cpu/{pool}/" in SECTIONS[section] or name == "laptop"
    (config,) = of_kind(manifests(profile(name)), "ConfigMap", "lacuna-pools")
    (tmp_path / "pools.yaml").write_text(config["data"]["pools.yaml"])
    spec = (ROOT / "examples" / "cluster.yaml").read_text()
    assert "pool: cpu" in spec
    (tmp_path / "sweep.yaml").write_text(spec.replace("pool: cpu", pool))
    monkeypatch.setenv("LACUNA_HOME", str(tmp_path))
    monkeypatch.setenv("LACUNA_POOLS", str(tmp_path / "pools.yaml"))
    done = CliRunner().invoke(cli, ["validate", str(tmp_path / "sweep.yaml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_commands_on_this_side_of_the_cluster_run(
    settings: Settings, engine: Engine, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but those of the cloud, of kubectl, helm and docker, against a service that stands for the cluster's."""
    mine = [line.partition(" | kubectl ")[0] for line in COMMANDS if re.search(r"(^|&& )lacuna ", line)]
    ours = list(dict.fromkeys(mine))  # roads end alike
    assert [line for line in ours if line.startswith("sed ")]
    assert [line for line in ours if line.endswith("--as rayjob")]
    pools = [
        yaml.safe_load(
            of_kind(manifests(profile(name)), "ConfigMap", "lacuna-pools")[0]["data"]["pools.yaml"]
        )
        for name in ("laptop", "gke-tpu", "gke-gpu")
    ]
    (tmp_path / "pools.yaml").write_text(
        yaml.safe_dump({"pools": [one for each in pools for one in each["pools"]]})
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    # Read by the process that plans, and by no command with --api.
    monkeypatch.setenv("LACUNA_POOLS", str(tmp_path / "pools.yaml"))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "LACUNA_HOME": str(tmp_path / "home"),
    }
    app = create_app(settings=settings, engine=engine, submit=planner(settings, engine, trusted=True))
    with serving(app) as address:
        for line in ours:
            if "lacuna law" in line:
                # What training would have left.
                grid.store_law(session, session.scalars(select(Sweep)).one())
            if line.startswith("sed "):
                # That road's cluster has seen no other: the sweep would be there, on another device.
                session.execute(delete(Sweep))
                session.commit()
            command = line.replace("http://127.0.0.1:8321", address)
            done = subprocess.run(
                ["bash", "-euc", command], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert session.scalars(select(Sweep)).one().spec["execution"]["pool"] == "l4"


def test_every_lacuna_command_exists_with_its_options() -> None:
    lines = [part for line in COMMANDS for part in re.split(r" (?:&&|&|--|\|) ", line)]
    lines += re.findall(r"`[^`\n]*?(lacuna [a-z][^`\n]*)`", TEXT)
    found = [shlex.split(line) for line in lines if line.startswith("lacuna ")]
    assert len(found) >= 8
    for words in found:
        group: Any = cli
        command = group.get_command(None, words[1])  # type: ignore[arg-type]
        assert command is not None, words
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_every_image_target_exists() -> None:
    targets = set(
        re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    )
    loops = re.findall(r"for t in ([a-z -]+);", TEXT)
    assert len(loops) >= 4
    for loop in loops:
        assert set(loop.split()) <= targets


def test_every_object_and_file_that_kubectl_names_exists() -> None:
    objects = manifests(profile("laptop"))
    names = {(item["kind"].lower(), item["metadata"]["name"]) for item in objects}
    pods = {f"{item['metadata']['name']}-0" for item in of_kind(objects, "StatefulSet")}
    named = re.findall(r"(deployment|service)/(lacuna[a-z-]*)", TEXT)
    assert len(named) >= 10
    for kind, name in named:
        assert (kind, name) in names, name
    for name in re.findall(r"get secret (\S+)", TEXT):
        assert ("secret", name) in names
    for name in re.findall(r"kubectl exec (?:--stdin )?(lacuna\S+)", TEXT):
        assert name in pods
    for file in re.findall(r"--filename ([^-]\S*)", TEXT):
        assert [document for document in yaml.safe_load_all((ROOT / file).read_text()) if document]


def test_every_value_that_the_text_names_exists() -> None:
    values: Manifest = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in set(re.findall(r"`((?:[a-zA-Z]+\.)+[a-zA-Z]+)`", TEXT)):
        top, *rest = path.split(".")
        if top not in values:
            continue
        place: Any = values[top]
        for key in rest:
            assert key in place, path
            place = place[key]


def test_the_error_that_the_text_shows_is_the_charts() -> None:
    import helm_python

    (shown,) = re.findall(r"^    (pools\[0\].+)$", TEXT, re.MULTILINE)
    pool = {"name": "tpu", "accelerator": "tpu-v6e-slice", "topology": "4x4", "chipsPerHost": 8}
    resources = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}}
    with pytest.raises(helm_python.HelmError) as refused:
        manifests({"cloud": "gke", "pools": [{**pool, "resources": resources}]})
    assert shown in str(refused.value)
