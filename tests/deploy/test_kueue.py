"""Kueue: what makes the chart's cluster a workload of a queue, and an example of the quotas behind it."""

from __future__ import annotations

from typing import Any

import yaml

from tests.deploy.chart import CHART, manifests, of_kind
from tests.deploy.matrix import cases

CASES = cases()
EXAMPLE = [item for item in yaml.safe_load_all((CHART / "examples" / "kueue.yaml").read_text()) if item]


def test_a_queue_makes_the_cluster_kueues() -> None:
    (cluster,) = of_kind(manifests(CASES["kueue"]), "RayCluster")
    assert cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lab"
    # Kueue's webhook refuses autoscaling without it.
    assert cluster["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
    for name in CASES:
        if name != "kueue":
            (cluster,) = of_kind(manifests(CASES[name]), "RayCluster")
            assert "kueue.x-k8s.io/queue-name" not in cluster["metadata"]["labels"], name


def test_the_example_has_quotas_for_all_that_the_cluster_asks_for() -> None:
    by_kind: dict[str, list[Any]] = {}
    for item in EXAMPLE:
        assert item["apiVersion"] == "kueue.x-k8s.io/v1beta2"
        by_kind.setdefault(item["kind"], []).append(item)
    (queue,), (local,) = by_kind["ClusterQueue"], by_kind["LocalQueue"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    flavors = [flavor["name"] for flavor in group["flavors"]]
    assert flavors == [flavor["metadata"]["name"] for flavor in by_kind["ResourceFlavor"]]
    # Kueue wants the resources of each flavor in the order of the group's.
    for flavor in group["flavors"]:
        assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
    (cluster,) = of_kind(manifests(CASES["kueue"]), "RayCluster")
    assert cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for container in (one for each in groups for one in each["template"]["spec"]["containers"]):
        assert set(container["resources"]["requests"]) <= set(group["coveredResources"])
