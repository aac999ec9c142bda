"""The chart renders, lints and validates: Helm's engine, Kubernetes' own schemas, facts about KubeRay and Kueue."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.deploy.chart import (
    CHART,
    FIXED,
    PROFILES,
    Manifest,
    files,
    manifests,
    merged,
    of_kind,
    pod_templates,
    profile,
)
from tests.deploy.matrix import cases

#: Oldest and newest minor that the chart supports and kubernetes-validate knows.
KUBERNETES = ("1.29", "1.37")
CASES = cases()
#: API groups that are not Kubernetes' own.
FOREIGN = ("ray.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/")
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    return {name: manifests(values) for name, values in CASES.items()}


@pytest.mark.parametrize("name", PROFILES)
def test_lint_finds_nothing(name: str) -> None:
    report = helm_python.lint(str(CHART), profile(name), strict=True, kube_version="v1.32.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(
    rendered: dict[str, list[Manifest]], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It reads a megabyte of definitions for each object; once is enough.
    monkeypatch.setattr(
        kubernetes_validate.utils, "schema_contents", lru_cache(kubernetes_validate.utils.schema_contents)
    )
    seen = set()
    for name, objects in rendered.items():
        pods = [
            {**template, "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "seen-as-pod"}}
            for cluster in of_kind(objects, "RayCluster")
            for _, template in pod_templates([cluster])
        ]
        for item in [*(item for item in objects if not item["apiVersion"].startswith(FOREIGN)), *pods]:
            text = json.dumps(item, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(map(str, error.path))
                pytest.fail(
                    f"{name}: {item['kind']} {item['metadata']['name']}: {where}: {error.message[:300]}"
                )


def test_names_are_unique_and_short_enough(rendered: dict[str, list[Manifest]]) -> None:
    for name, objects in rendered.items():
        keys = [(item["kind"], item["metadata"]["name"]) for item in objects]
        assert len(set(keys)) == len(keys), name
        assert all(len(key[1]) <= 63 for key in keys), name


@pytest.mark.parametrize("name", CASES)
def test_what_kuberay_demands(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Kept by hand from KubeRay 1.7's types and validation, for machines without its CRDs."""
    (cluster,) = of_kind(rendered[name], "RayCluster")
    spec = cluster["spec"]
    assert cluster["apiVersion"] == "ray.io/v1"
    assert len(cluster["metadata"]["name"]) <= 53
    assert spec["authOptions"] == {"mode": "token", "secretName": "given-ray"}
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)
    assert spec["upgradeStrategy"]["type"] in ("Recreate", "None")
    autoscaled = spec["enableInTreeAutoscaling"]
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["automountServiceAccountToken"] is autoscaled
    assert head["template"]["spec"]["containers"][0]["name"] == "ray-head"
    assert ("autoscalerOptions" in spec) is autoscaled
    groups = spec["workerGroupSpecs"]
    assert len({group["groupName"] for group in groups}) == len(groups) >= 1
    for group in [head, *groups]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        # Set beside rayStartParams it would be refused.
        assert "resources" not in group
        # The server would fill it in, and an upgrade would then differ from what is there.
        assert all("protocol" in port for port in group["template"]["spec"]["containers"][0]["ports"])
        assert group["template"]["spec"].get("restartPolicy") == ("Never" if autoscaled else None)
        assert [mount["name"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]].count(
            "shared-mem"
        ) == 1
    for group in groups:
        assert 0 <= group["minReplicas"] == group["replicas"] <= group["maxReplicas"]
        assert group["numOfHosts"] >= 1
        template = group["template"]
        container = template["spec"]["containers"][0]
        mark = yaml.safe_load(group["rayStartParams"]["resources"].strip("'"))
        assert mark == {f"pool:{group['groupName']}": 1}
        assert template["spec"]["terminationGracePeriodSeconds"] >= 20
        # What the hook waits for its runs, and what it does then, fit into the time that the Pod has to end.
        hook = container["lifecycle"]["preStop"]["exec"]["command"]
        assert hook[:3] == ["python", "-m", "orchestrator.leaving"]
        assert (
            5
            <= int(hook[hook.index("--within") + 1])
            <= template["spec"]["terminationGracePeriodSeconds"] - 15
        )
        assert hook[hook.index("--") + 1 :] == ["ray", "stop", "--grace-period", "5"]
        resources = container["resources"]
        for chip in ("google.com/tpu", "nvidia.com/gpu"):
            assert resources["requests"].get(chip) == resources["limits"].get(chip)
            if chip in resources["limits"]:
                assert {"key": chip, "operator": "Exists", "effect": "NoSchedule"} in template["spec"][
                    "tolerations"
                ]
        if "google.com/tpu" in resources["limits"]:
            selector = template["spec"]["nodeSelector"]
            assert {"cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"} <= set(
                selector
            )
            assert {"name": "PJRT_DEVICE", "value": "TPU"} in container["env"]


@pytest.mark.parametrize("name", ["laptop", "gke-tpu"])
def test_golden(name: str) -> None:
    """Changes of the output are looked at: LACUNA_GOLDEN=write writes the files anew, the diff goes to review."""
    texts = files(CASES[name])
    shown = "".join(
        f"# {path}\n{tidy(text)}\n"
        for path, text in sorted(texts.items())
        if path.endswith(".yaml") and text.strip()
    )
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("LACUNA_GOLDEN") == "write":
        file.write_text(shown)
    assert shown == file.read_text(), f"{file} differs: look, then LACUNA_GOLDEN=write writes it"


def tidy(text: str) -> str:
    """A rendered template as YAML without comments and blank lines; random passwords are not shown."""
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        for key in document.get("stringData", {}):
            document["stringData"][key] = "made when installed"
    return yaml.safe_dump_all(documents, sort_keys=False, width=120).strip()


def test_the_notes_lead_to_the_page() -> None:
    notes = files(merged(FIXED, profile("laptop")))["lacuna/templates/NOTES.txt"]
    assert "kubectl -n lab port-forward service/lacuna-service 8321:80" in notes
    assert "get secret given-token" in notes
    secure = files(CASES["everything"])["lacuna/templates/NOTES.txt"]
    assert "https://lacuna.example.org/" in secure
    assert "WARNING" not in secure


def test_every_value_is_documented() -> None:
    """Each key of values.yaml has a comment above it, on it, or above its parent's block."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    undocumented = []
    commented = False
    for line in lines:
        stripped = line.strip()
        if stripped.startswith(("#", "- #")):
            commented = True
        elif not stripped:
            commented = False
        elif ":" in stripped and not line.startswith(" "):
            block_follows = stripped.endswith(":")
            if not commented and not block_follows:
                undocumented.append(stripped)
            commented = commented or block_follows
    assert undocumented == []
