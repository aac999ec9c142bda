"""The chart's pool arithmetic is the planner's: same table, same hosts, same refusals, same resources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from pydantic import ValidationError

from ledger.settings import Settings
from orchestrator.pools import ACCELERATORS, Pool, PoolError, declared
from orchestrator.pools.resources import bundles, marker
from orchestrator.pools.table import table
from tests.deploy.chart import CHART, Manifest, Values, files, manifests, of_kind, profile
from tests.deploy.matrix import EXTRAS, RESOURCES


def test_the_chart_has_the_planners_table() -> None:
    """python -m orchestrator.pools.table > deploy/helm/lacuna/files/accelerators.json"""
    assert json.loads((CHART / "files" / "accelerators.json").read_text()) == table()


def test_the_schema_knows_the_same_accelerators_and_topologies() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["$defs"]["pool"]
    known = table()
    assert set(schema["properties"]["accelerator"]["enum"]) == {*known["accelerators"], *known["aliases"]}
    topologies = {
        rule["if"]["properties"]["accelerator"]["const"]: rule["then"]["properties"]["topology"]["enum"]
        for rule in schema["allOf"]
        if isinstance(rule["then"]["properties"]["topology"], dict)
    }
    assert topologies == {
        name: list(accelerator.topologies)
        for name, accelerator in ACCELERATORS.items()
        if accelerator.kind == "tpu"
    }


def combinations() -> list[dict[str, Any]]:
    """Every accelerator with every topology and host size, right ones and wrong ones."""
    made = []
    for name, accelerator in ACCELERATORS.items():
        for topology in (None, *accelerator.topologies, *(() if accelerator.topologies else ("2x2",))):
            for per_host in (None, 1, 2, 4, 8):
                made.append({"accelerator": name, "topology": topology, "chipsPerHost": per_host})
    return made


def test_chart_and_planner_agree_on_every_combination() -> None:
    right: list[tuple[dict[str, Any], Pool]] = []
    wrong = []
    for number, combination in enumerate(combinations()):
        entry = {"name": f"p{number}", "resources": RESOURCES}
        entry |= {key: value for key, value in combination.items() if value is not None}
        try:
            right.append((entry, Pool.model_validate(entry)))
        except (ValidationError, PoolError):
            wrong.append(entry)
    assert len(right) > 100
    assert len(wrong) > 100
    # All right ones in one rendering.
    groups = groups_of({"cloud": "gke", "pools": [entry for entry, _ in right]})
    for entry, pool in right:
        group = groups[pool.name]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        chips = {"tpu": "google.com/tpu", "gpu": "nvidia.com/gpu"}.get(pool.kind)
        assert group["numOfHosts"] == pool.hosts, entry
        if pool.kind == "tpu":
            # A run has a process on each host of a slice, and one alone on the one host of another.
            gang = bundles(pool, "xla", pool.slice_chips)
            assert (len(gang.bundles), gang.gang) == (pool.hosts, group["numOfHosts"] > 1), entry
        assert int(limits.get(chips, 0)) == pool.per_host, entry
        assert marker(pool) in group["rayStartParams"]["resources"]
    # Wrong ones one by one: by the schema, which is quick, or else by the templates.
    for entry in wrong:
        with pytest.raises(helm_python.HelmError):
            files({"cloud": "gke", "pools": [entry]})


@pytest.mark.parametrize("name", ["laptop", "gke-tpu", "gke-gpu", "eks-gpu"])
def test_the_planner_reads_the_pools_that_the_chart_hands_over(name: str, tmp_path: Path) -> None:
    objects = manifests(profile(name))
    (config,) = of_kind(objects, "ConfigMap", "lacuna-pools")
    file = tmp_path / "pools.yaml"
    file.write_text(config["data"]["pools.yaml"])
    pools = declared(Settings(home=tmp_path, pools=file))
    groups = groups_of(profile(name))
    assert {pool.name for pool in pools} == {"local", *groups}
    for pool in pools:
        if pool.name == "local":
            continue
        group = groups[pool.name]
        assert (pool.min_nodes, pool.max_nodes) == (group["minReplicas"], group["maxReplicas"])
        # KubeRay tells Ray the limit, rounded up.
        assert pool.cores == float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])


def groups_of(values: Values) -> dict[str, Manifest]:
    document = yaml.safe_load(files(values)["lacuna/templates/raycluster.yaml"])
    return {group["groupName"]: group for group in document["spec"]["workerGroupSpecs"]}


def test_facts_of_gkes_slices() -> None:
    """From GKE's documentation: v6e 4x4 is four hosts of four, v4 2x2x2 two, v5e 2x4 may be one host of eight."""
    groups = groups_of(profile("gke-tpu"))
    assert groups["tpu-slice"]["numOfHosts"] == 4
    assert groups["tpu-small"]["numOfHosts"] == 1
    slices = groups_of(EXTRAS["slices"])
    assert slices["v4"]["numOfHosts"] == 2
    assert slices["v5e"]["numOfHosts"] == 1
    selector = groups["tpu-slice"]["template"]["spec"]["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x4"
    small = groups["tpu-small"]["template"]["spec"]["nodeSelector"]
    assert small["cloud.google.com/gke-spot"] == "true"
