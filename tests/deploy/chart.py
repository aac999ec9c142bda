"""The chart through Helm's own engine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "lacuna"
PROFILES = ("default", "laptop", "gke-tpu", "gke-gpu", "eks-gpu")

#: Secrets of the user's own: what the chart would make up is random.
FIXED = {"apiToken": {"secretName": "given-token"}, "ray": {"auth": {"secretName": "given-ray"}}}

Values = dict[str, Any]
Manifest = dict[str, Any]


@lru_cache(maxsize=1)
def loaded() -> helm_python.Chart:
    """The chart, read once."""
    return helm_python.Chart.load(str(CHART))


def profile(name: str) -> Values:
    """The values of a profile."""
    if name == "default":
        return {}
    values: Values = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())
    return values


def merged(*layers: Values) -> Values:
    """Values over values, as Helm lays them: mappings merge, all else is replaced."""
    result: Values = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def files(values: Values, *, name: str = "lacuna", upgrade: bool = False) -> dict[str, str]:
    """Rendered templates by path. Raises helm_python.HelmError with what the schema or a template refuses."""
    chart = loaded()
    chart.validate_schema(values)
    return chart.render(values, name=name, namespace="lab", is_upgrade=upgrade, is_install=not upgrade)


def manifests(values: Values, *, name: str = "lacuna") -> list[Manifest]:
    """Every object that an installation makes, hooks included."""
    texts = files(values, name=name)
    return [
        document
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(objects: list[Manifest], kind: str, name: str | None = None) -> list[Manifest]:
    """The objects of that kind (and name)."""
    return [
        item
        for item in objects
        if item["kind"] == kind and (name is None or item["metadata"]["name"] == name)
    ]


def pod_templates(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(where, Pod template) of everything that becomes a Pod, Ray's groups included."""
    for item in objects:
        where = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield where, item["spec"]["template"]
        elif item["kind"] == "Pod":
            yield where, item
        elif item["kind"] == "RayCluster":
            yield f"{where}/head", item["spec"]["headGroupSpec"]["template"]
            for group in item["spec"]["workerGroupSpecs"]:
                yield f"{where}/{group['groupName']}", group["template"]


def containers(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(where, container) of every container, init containers included."""
    for where, template in pod_templates(objects):
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{where}/{container['name']}", container
