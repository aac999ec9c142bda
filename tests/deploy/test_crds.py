"""Objects of others' kinds against the schemas of their CRDs, where checkouts are given.

    KUBERAY_CRDS=~/kuberay KUEUE_CRDS=~/kueue GATEWAY_CRDS=~/gateway-api PROMETHEUS_CRDS=~/prometheus-operator \
        python -m pytest tests/deploy/test_crds.py

What the schemas cannot say, and what must hold where none is given, is in test_chart.py and test_kueue.py, and for
RayJobs in tests/orchestrator/test_rayjob.py.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.rayjob import as_yaml, rayjob
from tests.deploy.chart import CHART, ROOT, manifests, of_kind
from tests.deploy.matrix import cases

CASES = cases()
KUEUE = [item for item in yaml.safe_load_all((CHART / "examples" / "kueue.yaml").read_text()) if item]

needs_kuberay = pytest.mark.skipif(
    "KUBERAY_CRDS" not in os.environ,
    reason="KUBERAY_CRDS names no checkout of KubeRay; what is known of it by hand is tested always",
)
needs_kueue = pytest.mark.skipif(
    "KUEUE_CRDS" not in os.environ,
    reason="KUEUE_CRDS names no checkout of Kueue; what is known of it by hand is tested always",
)


@needs_kuberay
@pytest.mark.parametrize("name", CASES)
def test_kuberay_takes_the_cluster(name: str) -> None:
    (cluster,) = of_kind(manifests(CASES[name]), "RayCluster")
    validator("KUBERAY_CRDS", "ray.io_rayclusters.yaml", "v1").validate(cluster)


@needs_kuberay
def test_kuberay_takes_the_job() -> None:
    text = (ROOT / "examples" / "cluster.yaml").read_bytes()
    job = yaml.safe_load(as_yaml(rayjob(text, "cluster.yaml", cluster="lacuna")))
    schema = validator("KUBERAY_CRDS", "ray.io_rayjobs.yaml", "v1")
    schema.validate(job)
    # The schema is read as a strict server reads it.
    job["spec"]["entryPoint"] = job["spec"].pop("entrypoint")
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        schema.validate(job)


@needs_kueue
@pytest.mark.parametrize("item", KUEUE, ids=[item["kind"] + "-" + item["metadata"]["name"] for item in KUEUE])
def test_kueue_takes_the_example(item: dict[str, Any]) -> None:
    file = f"kueue.x-k8s.io_{item['kind'].lower()}s.yaml"
    validator("KUEUE_CRDS", file, item["apiVersion"].partition("/")[2]).validate(item)


@pytest.mark.parametrize(
    ("variable", "kind", "file"),
    [
        ("GATEWAY_CRDS", "HTTPRoute", "gateway.networking.k8s.io_httproutes.yaml"),
        ("PROMETHEUS_CRDS", "ServiceMonitor", "monitoring.coreos.com_servicemonitors.yaml"),
    ],
)
def test_the_ways_in_and_the_monitor_are_taken(variable: str, kind: str, file: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} names no checkout of a repository with {file}")
    (item,) = of_kind(manifests(CASES["everything"]), kind)
    schema = validator(variable, file, item["apiVersion"].partition("/")[2])
    schema.validate(item)
    item["spec"]["nonsense"] = 1
    with pytest.raises(jsonschema.ValidationError, match="nonsense"):
        schema.validate(item)


@lru_cache(maxsize=8)
def validator(variable: str, name: str, version: str) -> jsonschema.Draft202012Validator:
    """The schema of a CRD's version, from its file anywhere in the checkout that the variable names."""
    file = next(Path(os.environ[variable]).rglob(name), None)
    assert file is not None, f"{variable}={os.environ[variable]} has no {name}"
    crd = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (found,) = [candidate for candidate in crd["spec"]["versions"] if candidate["name"] == version]
    return jsonschema.Draft202012Validator(closed(found["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """The CRD's schema as a strict server reads it: fields that it does not name are refused."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
        # Metadata is described by Kubernetes itself.
        result["additionalProperties"] = False
        if "metadata" in schema["properties"]:
            result["properties"]["metadata"] = {"type": "object"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return result
