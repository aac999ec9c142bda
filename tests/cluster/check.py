"""The chart on a real cluster: install the laptop profile, train a sweep through two killed Pods, read its law.

    KUBECONFIG=~/.kube/config python -m tests.cluster.check

The same on kind, minikube or a cluster of machines; it needs kubectl, the KubeRay operator and the images. Everything
lies in a namespace of its own, which goes at the end (LACUNA_KEEP=1 keeps it).

    LACUNA_VALUES       a file with more values, such as the registry of your images
    LACUNA_NAMESPACE    the namespace; default: lacuna-test
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.images.rest import RUNS, Service, told, until

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "lacuna"
NAMESPACE = os.environ.get("LACUNA_NAMESPACE", "lacuna-test")
READY_SECONDS = 1200
LAW_SECONDS = 1800


def main() -> int:
    """Run everything; 0 where it passed or no cluster is named."""
    config = os.environ.get("KUBECONFIG", "")
    if not config:
        print("cluster: SKIPPED, because KUBECONFIG names no cluster")
        return 0
    import helm_python

    began = time.monotonic()
    try:
        kubectl("version", "--output=json")
        kubectl("get", "crd", "rayclusters.ray.io")
        if subprocess.run(["kubectl", "get", "namespace", NAMESPACE], capture_output=True).returncode:
            kubectl("create", "namespace", NAMESPACE)
            # What the chart promises: the strictest level of Pod Security.
            kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        with helm_python.Config(kubeconfig_path=config.split(":")[0], namespace=NAMESPACE) as helm:
            if any(release.get("name") == "lacuna" for release in json.loads(json.dumps(helm.list()))):
                helm.upgrade(str(CHART), "lacuna", values(), namespace=NAMESPACE, timeout=600)
            else:
                helm.install(str(CHART), "lacuna", values(), namespace=NAMESPACE, timeout=600)
            wait_until_ready()
            train_through_kills()
            helm.test("lacuna", timeout=300)
            # An upgrade runs the migrations, and keeps passwords, tokens and laws.
            helm.upgrade(str(CHART), "lacuna", values(), namespace=NAMESPACE, timeout=600)
        with service() as there:
            until(there.law_of_all_runs, 300, "the law after an upgrade")
    except (AssertionError, subprocess.SubprocessError, helm_python.HelmError) as failure:
        print(f"cluster: FAILED: {failure}", file=sys.stderr)
        tell()
        return 1
    finally:
        if not os.environ.get("LACUNA_KEEP"):
            subprocess.run(["kubectl", "delete", "namespace", NAMESPACE, "--wait=false"], capture_output=True)
    print(f"cluster: passed in {time.monotonic() - began:.0f} s")
    return 0


def values() -> dict[str, Any]:
    """The laptop profile, and the user's own values over it."""
    import yaml

    found: dict[str, Any] = yaml.safe_load((CHART / "values-laptop.yaml").read_text())
    more = os.environ.get("LACUNA_VALUES")
    if more:
        for key, value in (yaml.safe_load(Path(more).read_text()) or {}).items():
            found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


def wait_until_ready() -> None:
    ours = in_namespace(
        *("get", "statefulsets,deployments", "--selector", "app.kubernetes.io/instance=lacuna"),
        *("--output", "name"),
    )
    for name in ours.split():
        in_namespace("rollout", "status", name, f"--timeout={READY_SECONDS}s", seconds=READY_SECONDS + 30)
    until(lambda: pods("ray-worker"), READY_SECONDS, "a worker of the pool")


def train_through_kills() -> None:
    with service() as there:
        there.submit()
        until(lambda: there.completed() >= 1, LAW_SECONDS, "the first run")
        for component in ("ray-worker", "controller"):
            killed = pods(component)[0]
            in_namespace("delete", "pod", killed, "--grace-period=0", "--force")
            print(f"killed {killed} with {there.completed()} of {RUNS} runs done", flush=True)
        told(until(there.law_of_all_runs, LAW_SECONDS, "a law from all runs"))


@contextmanager
def service() -> Iterator[Service]:
    """The service through a port-forward."""
    process = subprocess.Popen(
        ["kubectl", "-n", NAMESPACE, "port-forward", "service/lacuna-service", ":80"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, f"kubectl port-forward said: {line}"
        yield Service(f"127.0.0.1:{found[1]}", token())
    finally:
        process.terminate()
        process.wait()


def token() -> str:
    encoded = in_namespace("get", "secret", "lacuna-api-token", "--output", "jsonpath={.data.token}")
    return base64.b64decode(encoded).decode()


def pods(component: str) -> list[str]:
    """Names of the running Pods of a part."""
    listed = in_namespace(
        *("get", "pods", "--selector", f"app.kubernetes.io/component={component}"),
        *("--field-selector", "status.phase=Running", "--output", "jsonpath={.items[*].metadata.name}"),
    )
    return listed.split()


def kubectl(*arguments: str, seconds: float = 120) -> str:
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def in_namespace(*arguments: str, seconds: float = 120) -> str:
    return kubectl("--namespace", NAMESPACE, *arguments, seconds=seconds)


def tell() -> None:
    """What the cluster says of the Pods, for whoever reads the failure."""
    for arguments in (
        ["get", "pods,rayclusters,pvc", "--output=wide"],
        ["get", "events", "--sort-by=.lastTimestamp"],
        ["logs", "deployment/lacuna-service", "--tail=40"],
        ["logs", "deployment/lacuna-controller", "--tail=40"],
    ):
        done = subprocess.run(
            ["kubectl", "--namespace", NAMESPACE, *arguments], capture_output=True, text=True
        )
        print(f"---- kubectl {' '.join(arguments)}\n{(done.stdout + done.stderr)[-4000:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
