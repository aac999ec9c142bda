"""The schema and the templates refuse wrong values, and the message names the key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests.deploy.chart import Values, files, loaded, manifests, profile
from tests.deploy.matrix import RESOURCES


def pool(**changes: Any) -> Values:
    """Values with one pool; None removes a key."""
    made = {"name": "p", "accelerator": "cpu", "resources": RESOURCES, **changes}
    return {"cloud": "gke", "pools": [{key: value for key, value in made.items() if value is not None}]}


def tpu(**changes: Any) -> Values:
    return pool(**{"accelerator": "tpu-v6e-slice", "topology": "4x4", **changes})


TWO_QUEUES = [
    {"name": "a", "accelerator": "cpu", "queue": "x", "resources": RESOURCES},
    {"name": "b", "accelerator": "cpu", "resources": RESOURCES},
]
TWICE = [{"name": "a", "accelerator": "cpu", "resources": RESOURCES}] * 2

#: What is wrong, and a part of the message: the key.
WRONG: list[tuple[Values, str]] = [
    ({"replicas": 3}, "replicas"),
    ({"service": {"replica": 2}}, "replica"),
    ({"service": {"replicas": "two"}}, "/service/replicas"),
    ({"service": {"replicas": "2"}}, "/service/replicas"),
    ({"service": {"replicas": 0}}, "/service/replicas"),
    ({"service": {"replicas": 1.5}}, "/service/replicas"),
    ({"service": {"type": "Ingress"}}, "/service/type"),
    ({"service": {"port": 70000}}, "/service/port"),
    (pool(resources={"requests": {"cpu": "1", "memory": "1Gi"}}), "limits"),
    ({"service": {"resources": {**RESOURCES, "limits": {"cpu": "1", "memory": "lots"}}}}, "limits/memory"),
    ({"service": {"resources": {**RESOURCES, "limits": {"cpu": "one", "memory": "1Gi"}}}}, "limits/cpu"),
    (
        {"service": {"resources": {"requests": {"cpu": "2500m"}}}},
        "service.resources: requests.cpu: 2500m is more than the limit of 2",
    ),
    (
        {"ray": {"head": {"resources": {"requests": {"memory": "5000Mi"}}}}},
        "ray.head.resources: requests.memory: 5000Mi is more than the limit of 4Gi",
    ),
    ({"controller": {"replicas": True}}, "/controller/replicas"),
    ({"controller": {"terminationGracePeriodSeconds": "2m"}}, "/controller/terminationGracePeriodSeconds"),
    ({"cloud": "azure"}, "/cloud"),
    ({"fullnameOverride": "Lacuna"}, "/fullnameOverride"),
    ({"fullnameOverride": "a" * 41}, "/fullnameOverride"),
    ({"image": {"tag": "latest"}}, "/image/tag"),
    ({"image": {"tag": 1.2}}, "/image/tag"),
    ({"image": {"registry": "https://registry.example.org"}}, "/image/registry"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"image": {"digests": {"service": "abc"}}}, "/image/digests/service"),
    ({"image": {"digests": {"servce": "sha256:" + "a" * 64}}}, "servce"),
    ({"image": {"pullSecrets": "registry"}}, "/image/pullSecrets"),
    ({"image": {"pullSecrets": ["My_Registry"]}}, "/image/pullSecrets/0"),
    ({"apiToken": {"secretName": "s", "secretKey": "a/b"}}, "/apiToken/secretKey"),
    ({"database": {"mode": "mysql"}}, "/database/mode"),
    ({"database": {"mode": "external"}}, "/database/external"),
    ({"database": {"mode": "external", "external": {"secretName": "s"}}}, "database.external"),
    ({"database": {"external": {"cidrs": ["anywhere"]}}}, "/database/external/cidrs/0"),
    ({"database": {"external": {"port": "5432"}}}, "/database/external/port"),
    ({"database": {"external": {"url": "postgresql://me:secret@db"}}}, "url"),
    ({"database": {"bundled": {"size": "big"}}}, "/database/bundled/size"),
    ({"database": {"bundled": {"image": "postgres:latest"}}}, "database.bundled.image: "),
    ({"database": {"bundled": {"image": "lab:5000/postgres"}}}, "name a tag (not latest) or a digest"),
    ({"database": {"bundled": {"image": "postgres:"}}}, "/database/bundled/image"),
    ({"storage": {"kind": "nfs"}}, "/storage/kind"),
    ({"storage": {"kind": "url"}}, "/storage/url"),
    ({"storage": {"kind": "url", "url": "https://bucket"}}, "/storage/url"),
    ({"storage": {"pvc": {"accessModes": ["ReadWriteSometimes"]}}}, "/storage/pvc/accessModes/0"),
    ({"storage": {"pvc": {"accessModes": []}}}, "/storage/pvc/accessModes"),
    (
        {"storage": {"pvc": {"accessModes": ["ReadWriteOncePod", "ReadWriteMany"]}}},
        "/storage/pvc/accessModes",
    ),
    ({"storage": {"pvc": {"size": "0Gi"}}}, "/storage/pvc/size"),
    ({"storage": {"pvc": {"storageClassName": "a..b"}}}, "/storage/pvc/storageClassName"),
    ({"serviceAccount": {"annotations": {"a": 1}}}, "/serviceAccount/annotations/a"),
    ({"mlflow": {"enabled": "yes"}}, "/mlflow/enabled"),
    ({"mlflow": {"workers": 0}}, "/mlflow/workers"),
    ({"ray": {"version": "2.51.0"}}, "/ray/version"),
    ({"ray": {"priorityClassName": "Very low"}}, "/ray/priorityClassName"),
    ({"ray": {"version": 2.6}}, "/ray/version"),
    ({"ray": {"auth": {"mode": "disabled"}}}, "mode"),
    ({"ray": {"autoscaler": {"idleTimeoutSeconds": 1}}}, "/ray/autoscaler/idleTimeoutSeconds"),
    ({"ray": {"terminationGracePeriodSeconds": 5}}, "/ray/terminationGracePeriodSeconds"),
    ({"networkPolicy": {"from": [{}]}}, "/networkPolicy/from/0"),
    ({"networkPolicy": {"operatorFrom": {}}}, "/networkPolicy/operatorFrom"),
    ({"networkPolicy": {"from": [{"podSelector": {"matchLabel": {}}}]}}, "/networkPolicy/from/0/podSelector"),
    (
        {"networkPolicy": {"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}},
        "/networkPolicy/from/0",
    ),
    ({"networkPolicy": {"apiServerCidrs": ["10.0.0.0/99"]}}, "/networkPolicy/apiServerCidrs/0"),
    ({"networkPolicy": {"apiServerCidrs": ["10.0.0.256/32"]}}, "/networkPolicy/apiServerCidrs/0"),
    ({"networkPolicy": {"extraEgress": [{"form": []}]}}, "/networkPolicy/extraEgress/0"),
    ({"networkPolicy": {"extraEgress": [{"ports": [{"port": 0}]}]}}, "/networkPolicy/extraEgress/0/ports/0"),
    ({"networkPolicy": {"apiServerPorts": ["https"]}}, "/networkPolicy/apiServerPorts/0"),
    ({"ingress": {"enabled": True}}, "/ingress/host"),
    ({"ingress": {"enabled": True, "host": "Lacuna.Example"}}, "/ingress/host"),
    ({"ingress": {"enabled": True, "host": "a..b"}}, "/ingress/host"),
    ({"ingress": {"enabled": True, "host": "10.0.0.1"}}, "/ingress/host"),
    ({"ingress": {"className": "Nginx class"}}, "/ingress/className"),
    ({"ingress": {"annotations": {"a b": "c"}}}, "/ingress/annotations"),
    ({"gateway": {"enabled": True}}, "/gateway/parentRefs"),
    ({"gateway": {"parentRefs": [{"name": "g", "sectionName": "A b"}]}}, "/gateway/parentRefs/0/sectionName"),
    ({"gateway": {"hostnames": ["A.b"]}}, "/gateway/hostnames/0"),
    ({"monitoring": {"serviceMonitor": {"interval": "often"}}}, "/monitoring/serviceMonitor/interval"),
    ({"migrations": {"waitSeconds": -1}}, "/migrations/waitSeconds"),
    ({"tolerations": [{"operator": "Equals"}]}, "/tolerations/0/operator"),
    ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "/tolerations/0/value"),
    ({"tolerations": [{"operator": "Equal", "value": "b"}]}, "/tolerations/0"),
    ({"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 5}]}, "/tolerations/0"),
    ({"nodeSelector": {"a b": "c"}}, "/nodeSelector"),
    ({"nodeSelector": {"a": "b c"}}, "/nodeSelector/a"),
    ({"pools": []}, "/pools"),
    ({"pools": {"gpu": {}}}, "/pools"),
    ({"pools": TWICE}, "pools[1].name"),
    ({"pools": TWO_QUEUES}, "pools[].queue"),
    (pool(name="GPU"), "/pools/0/name"),
    (pool(name="local"), "/pools/0/name"),
    (pool(name="a-name-that-is-far-too-long-for-kuberay"), "/pools/0/name"),
    (pool(name=None), "name"),
    (pool(resources=None), "resources"),
    (
        pool(resources={**RESOURCES, "requests": {"cpu": 5, "memory": "1Gi"}}),
        "pools[0] (p).resources: requests.cpu: 5 is more than the limit of 4",
    ),
    (pool(accelerator="h100"), "/pools/0/accelerator"),
    (pool(topology="2x2"), "/pools/0/topology"),
    (pool(chipsPerHost=4), "/pools/0/chipsPerHost"),
    (pool(minNodes=3, maxNodes=2), "pools[0] (p): maxNodes 2 is less than minNodes 3"),
    (pool(maxNodes="many"), "/pools/0/maxNodes"),
    (pool(spot="true"), "/pools/0/spot"),
    (pool(image="mine:latest"), 'pools[0] (p).image: "mine:latest" is whatever'),
    (pool(image="lab:5000/mine"), "or a digest, as in lab:5000/mine:1.2"),
    (pool(image="mine@sha256:abc"), "/pools/0/image"),
    (pool(price={"low": 1}), "high"),
    (pool(nodes=3), "nodes"),
    (pool(accelerator="nvidia-l4", chipsPerHost=3), "/pools/0/chipsPerHost"),
    (pool(accelerator="nvidia-l4", chipsPerRun=2), "/pools/0/chipsPerRun"),
    (pool(accelerator="nvidia-h100-80gb", topology="4x4"), "/pools/0/topology"),
    (tpu(topology=None), "topology"),
    (tpu(topology="3x3"), "/pools/0/topology"),
    (tpu(topology="2x2x2"), "/pools/0/topology"),
    (tpu(chipsPerHost=2), "/pools/0/chipsPerHost"),
    (tpu(chipsPerHost=8), "pools[0] (p): chipsPerHost: hosts of 8 chips stand alone"),
    (tpu(chipsPerRun=0.5), "/pools/0/chipsPerRun"),
    ({**tpu(), "cloud": "none"}, "pools[0] (p): accelerator: TPUs are to be had on GKE"),
]


@pytest.mark.parametrize(
    ("values", "named"), WRONG, ids=[f"{i}-{named}" for i, (_, named) in enumerate(WRONG)]
)
def test_wrong_values_are_refused_by_name(values: Values, named: str) -> None:
    with pytest.raises(helm_python.HelmError) as refused:
        files(values)
    assert named in str(refused.value)


def test_a_release_whose_name_is_too_long_is_refused() -> None:
    with pytest.raises(helm_python.HelmError, match="has 41 characters, KubeRay leaves room for 40"):
        files({}, name="a" * 41)


@pytest.mark.parametrize("name", ["1st", "my.release"])
def test_a_release_whose_name_no_service_can_have_is_refused(name: str) -> None:
    with pytest.raises(helm_python.HelmError, match="is no name for a Service: start with a letter"):
        files({}, name=name)


#: Good names that YAML takes for numbers and booleans where nothing quotes them.
WORDS: Values = {
    "image": {"pullSecrets": ["123"]},
    "apiToken": {"secretName": "123", "secretKey": "1e3"},
    "database": {
        "mode": "external",
        "external": {
            **{"secretName": "0x1f", "urlKey": "true", "trackingUrlKey": "null"},
            **{"podSelector": {"app": "1"}, "namespace": "1e3"},
        },
    },
    "storage": {"pvc": {"storageClassName": "0123"}},
    "ray": {"auth": {"secretName": "1.5"}, "priorityClassName": "1e3"},
    "pools": [
        {"name": "true", "accelerator": "cpu", "queue": "1", "resources": RESOURCES},
        {"name": "1e3", "accelerator": "cpu", "queue": "1", "resources": RESOURCES, "priorityClassName": "0"},
    ],
    "ingress": {"enabled": True, "className": "1", "host": "1.5", "tlsSecretName": "0b1"},
    "gateway": {"enabled": True, "parentRefs": [{"name": "1"}], "hostnames": ["1.5"]},
    "monitoring": {"serviceMonitor": {"enabled": True}},
}


@pytest.mark.parametrize(
    "values",
    [WORDS, {"storage": {"pvc": {"existingClaim": "1"}}, "database": {"bundled": {"storageClassName": "1"}}}],
    ids=["words", "bundled"],
)
def test_names_stay_text(values: Values) -> None:
    """Kubernetes refuses `name: 123`, a label of `true`, a Secret's key of null."""
    texts = list(named(manifests(values, name="true")))
    assert len(texts) > 100
    assert [(where, value) for where, value in texts if not isinstance(value, str)] == []


def named(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every name, host, and value of a label, selector or annotation."""
    if isinstance(node, list):
        for item in node:
            yield from named(item, where)
    elif isinstance(node, dict):
        for key, value in node.items():
            path = f"{where}.{key}"
            if key in ("labels", "matchLabels", "annotations", "nodeSelector"):
                yield from ((f"{path}.{label}", text) for label, text in value.items())
            elif key.lower().endswith(("name", "host", "key")) and not isinstance(value, dict):
                yield path, value
            elif key in ("hosts", "hostnames"):
                yield from ((path, host) for host in value)
            else:
                yield from named(value, path)


def test_every_default_passes_its_own_schema() -> None:
    loaded().validate_schema({})
    for name in ("laptop", "gke-tpu", "gke-gpu", "eks-gpu"):
        loaded().validate_schema(profile(name))
