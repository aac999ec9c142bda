"""What an upgrade finds in the cluster and must repeat: a stand-in for the Kubernetes API answers Helm's look-ups."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import helm_python
import yaml

from tests.deploy.chart import FIXED, Manifest, Values, loaded, manifests, merged, of_kind, profile

CLUSTERS = "/apis/ray.io/v1/namespaces/lab/rayclusters"


def test_an_upgrade_leaves_the_nodes_to_the_autoscaler() -> None:
    """Else it would take running nodes away, and conflict with whoever wrote the list: Helm 4 applies on the server."""
    values = merged(FIXED, profile("laptop"))
    (cluster,) = of_kind(manifests(values), "RayCluster")
    there = copy.deepcopy(cluster)
    (group,) = there["spec"]["workerGroupSpecs"]
    # The last is what KubeRay's definition fills in.
    group |= {"replicas": 2, "scaleStrategy": {"workersToDelete": ["lacuna-cpu-worker-x"]}, "priority": 0}
    assert cluster["spec"]["workerGroupSpecs"] != [group]
    assert groups(values, there) == [group]


def test_an_upgrade_keeps_to_the_limits_of_its_own_values() -> None:
    values = merged(FIXED, profile("laptop"))
    (there,) = of_kind(manifests(values), "RayCluster")
    there["spec"]["workerGroupSpecs"][0]["replicas"] = 2
    assert groups(merged(values, pools(minNodes=0, maxNodes=1)), there)[0]["replicas"] == 1
    assert groups(merged(values, pools(minNodes=3, maxNodes=4)), there)[0]["replicas"] == 3
    assert groups(merged(values, {"ray": {"autoscaler": {"enabled": False}}}), there)[0]["replicas"] == 1
    assert groups(merged(values, pools(name="other")), there)[0]["replicas"] == 1


def pools(**changes: Any) -> Values:
    """The laptop's one pool, changed."""
    return {"pools": [{**profile("laptop")["pools"][0], **changes}]}


def groups(values: Values, there: Manifest) -> list[Manifest]:
    """The worker groups that an upgrade renders where that RayCluster is."""
    with api({f"{CLUSTERS}/lacuna": there}) as config:
        texts = config.render(loaded(), values, name="lacuna", namespace="lab", is_upgrade=True)
    made: list[Manifest] = yaml.safe_load(texts["lacuna/templates/raycluster.yaml"])["spec"][
        "workerGroupSpecs"
    ]
    return made


@contextmanager
def api(objects: dict[str, Manifest]) -> Iterator[helm_python.Config]:
    """A Kubernetes API that knows these objects by path, as far as look-ups go."""
    kinds = {
        "/api/v1": [{"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"]}],
        "/apis/ray.io/v1": [
            {"name": "rayclusters", "kind": "RayCluster", "namespaced": True, "verbs": ["get"]}
        ],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in kinds:
                version = path.removeprefix("/apis/").removeprefix("/api/")
                answer = {"kind": "APIResourceList", "groupVersion": version, "resources": kinds[path]}
            else:
                missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
                answer = objects.get(path, {**missing, "apiVersion": "v1"})
            body = json.dumps(answer).encode()
            self.send_response(404 if answer["kind"] == "Status" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        access = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": ""}}],
        }
        try:
            with helm_python.Config(kubeconfig_content=json.dumps(access), namespace="lab") as config:
                yield config
        finally:
            server.shutdown()
            thread.join()
