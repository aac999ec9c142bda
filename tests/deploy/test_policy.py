"""What a security review would ask, asked of every profile and every set of values."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.chart import Manifest, containers, manifests, of_kind, pod_templates
from tests.deploy.matrix import cases

CASES = cases()
RENDERED = {name: manifests(values) for name, values in CASES.items()}
COMPONENT = "app.kubernetes.io/component"


@pytest.mark.parametrize("name", CASES)
def test_every_container_is_restricted(name: str) -> None:
    for where, container in containers(RENDERED[name]):
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["readOnlyRootFilesystem"] is True, where
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
    for where, template in pod_templates(RENDERED[name]):
        security = template["spec"]["securityContext"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert security["runAsUser"] > 0, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(template["spec"]), where
        assert all("hostPath" not in volume for volume in template["spec"].get("volumes", [])), where
    for cluster in of_kind(RENDERED[name], "RayCluster"):
        options = cluster["spec"].get("autoscalerOptions")
        if options:
            assert options["securityContext"]["readOnlyRootFilesystem"] is True
            assert options["resources"]["limits"]


@pytest.mark.parametrize("name", CASES)
def test_every_container_says_what_it_needs(name: str) -> None:
    for where, container in containers(RENDERED[name]):
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][side]), where


@pytest.mark.parametrize("name", CASES)
def test_everything_that_stays_is_probed(name: str) -> None:
    for where, template in pod_templates(RENDERED[name]):
        if where.split("/")[0] in ("Job", "Pod"):
            continue
        for container in template["spec"]["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= set(container), where


@pytest.mark.parametrize("name", CASES)
def test_no_image_moves(name: str) -> None:
    for where, container in containers(RENDERED[name]):
        image = container["image"]
        assert "@sha256:" in image or ":" in image.rsplit("/", 1)[-1], where
        assert not image.endswith(":latest"), where


@pytest.mark.parametrize("name", CASES)
def test_only_the_ray_head_may_ask_kubernetes(name: str) -> None:
    for where, template in pod_templates(RENDERED[name]):
        allowed = template["spec"]["automountServiceAccountToken"]
        assert not allowed or where.endswith("/head"), where
    for account in of_kind(RENDERED[name], "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert not {"Role", "ClusterRole", "ClusterRoleBinding"} & {item["kind"] for item in RENDERED[name]}


@pytest.mark.parametrize("name", CASES)
def test_secrets_are_files_and_never_in_an_environment(name: str) -> None:
    for where, container in containers(RENDERED[name]):
        assert "envFrom" not in container, where
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {}), f"{where}: {variable['name']}"
            assert "://lacuna:" not in variable.get("value", ""), where
    for where, template in pod_templates(RENDERED[name]):
        for volume in template["spec"].get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, where
                assert volume["secret"]["items"], f"{where}: mounts a whole Secret"


@pytest.mark.parametrize("name", CASES)
def test_workers_hold_no_secret_of_ours(name: str) -> None:
    for where, template in pod_templates(RENDERED[name]):
        if where.startswith("RayCluster/"):
            assert all("secret" not in volume for volume in template["spec"]["volumes"]), where


@pytest.mark.parametrize("name", CASES)
def test_every_pod_can_write_where_it_must(name: str) -> None:
    for where, container in containers(RENDERED[name]):
        if "postgres" not in where:
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, where


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))


def targets(objects: list[Manifest]) -> dict[str, dict[str, str]]:
    """Labels of every Pod by component."""
    return {
        template["metadata"]["labels"][COMPONENT]: template["metadata"]["labels"]
        for _, template in pod_templates(objects)
    }


def reach(objects: list[Manifest], source: str, target: str, port: int) -> bool:
    """Whether a Pod of one component reaches a port of another, by the NetworkPolicies of both sides."""
    labels = targets(objects)

    def side(direction: str, key: str, own: str, other: str) -> bool:
        policies = [
            policy["spec"]
            for policy in of_kind(objects, "NetworkPolicy")
            if selects(policy["spec"]["podSelector"], labels[own])
            and direction in policy["spec"]["policyTypes"]
        ]
        if not policies:
            return True
        for policy in policies:
            for rule in policy.get(direction.lower(), []):
                ports = {item["port"] for item in rule.get("ports", [])}
                if ports and port not in ports:
                    continue
                peers = rule.get(key)
                if peers is None or any(
                    "podSelector" in peer
                    and "namespaceSelector" not in peer
                    and selects(peer["podSelector"], labels[other])
                    for peer in peers
                ):
                    return True
        return False

    return side("Egress", "to", source, target) and side("Ingress", "from", target, source)


#: The arrows of the design: who calls whom, on which port.
ARROWS = {
    ("service", "postgres", 5432),
    ("controller", "postgres", 5432),
    ("controller", "mlflow", 5000),
    ("controller", "ray-head", 6379),
    ("controller", "ray-worker", 20000),
    ("ray-head", "ray-worker", 20000),
    ("ray-head", "controller", 20000),
    ("ray-worker", "ray-head", 6379),
    ("ray-worker", "controller", 20000),
    ("ray-worker", "postgres", 5432),
    ("mlflow", "postgres", 5432),
    ("migrations", "postgres", 5432),
    ("test", "service", 8321),
    ("test", "mlflow", 5000),
}


@pytest.mark.parametrize("name", ["default", "laptop", "everything"])
def test_network_policies_allow_exactly_the_arrows_of_the_design(name: str) -> None:
    objects = RENDERED[name]
    parts = targets(objects)
    ports = {target: port for _, target, port in ARROWS} | {"ray-head": 6379}
    for source in parts:
        for target in parts:
            if source == target or target in ("migrations", "test"):
                continue
            expected = any(arrow[:2] == (source, target) for arrow in ARROWS)
            port = next((arrow[2] for arrow in ARROWS if arrow[:2] == (source, target)), ports[target])
            assert reach(objects, source, target, port) == expected, f"{source} → {target}:{port}"


def test_only_kuberays_operator_submits_jobs_from_outside() -> None:
    (policy,) = of_kind(RENDERED["everything"], "NetworkPolicy", "sparse-ray-head")
    rules = [
        rule
        for rule in policy["spec"]["ingress"]
        if {"port": 8265, "protocol": "TCP"} in rule.get("ports", [])
    ]
    operator = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}
    assert [rule["from"] for rule in rules] == [[{"namespaceSelector": {}, **operator}]]


@pytest.mark.parametrize("name", [name for name in CASES if name != "bare"])
def test_every_pod_and_service_is_under_a_policy(name: str) -> None:
    objects = RENDERED[name]
    policies = [policy["spec"] for policy in of_kind(objects, "NetworkPolicy")]
    for where, template in pod_templates(objects):
        own = [p for p in policies if selects(p["podSelector"], template["metadata"]["labels"])]
        # The default one, and one of its own.
        assert len(own) >= 2, where
    for service in of_kind(objects, "Service"):
        labels = service["spec"]["selector"]
        assert any(p["podSelector"]["matchLabels"] == labels for p in policies), service["metadata"]["name"]


@pytest.mark.parametrize("name", CASES)
def test_selectors_find_exactly_their_own_pods(name: str) -> None:
    objects = RENDERED[name]
    labels = [template["metadata"]["labels"] for _, template in pod_templates(objects)]
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet"):
            selector = item["spec"]["selector"]
        elif item["kind"] == "Service":
            selector = {"matchLabels": item["spec"]["selector"]}
        elif item["kind"] == "PodDisruptionBudget":
            selector = item["spec"]["selector"]
        else:
            continue
        found = {one[COMPONENT] for one in labels if selects(selector, one)}
        assert len(found) == 1, f"{item['kind']} {item['metadata']['name']} selects {found}"


@pytest.mark.parametrize("name", CASES)
def test_what_is_referred_to_is_there(name: str) -> None:
    """Claims, ConfigMaps, Secrets and accounts that Pods name exist, or are the user's own by a value."""
    objects = RENDERED[name]
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    given = {"given-token", "given-ray", "mine", "db", "lacuna-database"}
    for where, template in pod_templates(objects):
        spec = template["spec"]
        account = spec.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there, where
        for volume in spec.get("volumes", []):
            for kind, key, field in (
                ("Secret", "secret", "secretName"),
                ("ConfigMap", "configMap", "name"),
                ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
            ):
                if key in volume and volume[key][field] not in given:
                    assert (kind, volume[key][field]) in there, f"{where}: {volume}"


def test_nothing_needs_a_cloud_unless_a_value_says_so() -> None:
    for name in ("default", "laptop", "bare"):
        text = str(RENDERED[name])
        for word in ("cloud.google.com", "karpenter", "amazonaws", "gke", "169.254.169.254"):
            assert word not in text, f"{name}: {word}"
