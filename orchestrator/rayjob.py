"""A sweep as a KubeRay RayJob, for those who hand everything to Kubernetes as a manifest (GitOps, `kubectl wait`).

The job runs `lacuna run` in a controller's Pod of the chart, which has the ledger and the storage: no secret is in the
manifest, and none goes to another Pod. There it hands the sweep to the controller that leads and follows it, so that
the RayJob succeeds when the sweep is done and fails when runs failed. A lost Ray head forgets the job; KubeRay then
submits it again, which goes on with the same sweep.

KubeRay submits by HTTP, with no Pod of its own for that: the entrypoint reaches the shell letter by letter.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from orchestrator.spec import Problem, SpecError, load_spec
from trainer.program import key_of

#: What a controller's node says of itself when it joins Ray (docker/join-ray.sh): there, entrypoints find the ledger.
CONTROLLER = "lacuna:controller"

#: KubeRay refuses longer names, since it appends to them.
LONGEST_NAME = 47

#: Bytes; a shell takes a command of at most 128 KiB.
LARGEST_SPEC = 100_000


def rayjob(text: bytes, source: str, *, cluster: str) -> dict[str, Any]:
    """The manifest that runs a spec's text on the chart's RayCluster of that name.

    The same spec gives the same object, and a grown grid another. The cluster's controller checks the pool, which this
    machine need not know. Raises SpecError.
    """
    spec = load_spec(text, source)
    if len(text) > LARGEST_SPEC:
        message = f"has {len(text)} bytes, and a RayJob takes {LARGEST_SPEC}: submit it with --api URL"
        raise SpecError([Problem(path="", message=message)], source)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name_of(spec.name, key_of(spec.canonical())),
            "labels": {"app.kubernetes.io/part-of": "lacuna", "lacuna.dev/sweep": spec.name},
        },
        "spec": {
            "clusterSelector": {"ray.io/cluster": cluster},
            "submissionMode": "HTTPMode",
            "entrypointResources": json.dumps({CONTROLLER: 0.001}),
            "entrypoint": given("lacuna run -", text.decode()),
        },
    }


def given(command: str, text: str) -> str:
    """The command with a text on its standard input, for a POSIX shell; the text ends with one line feed."""
    written = text.rstrip("\n")
    end = "END_OF_SPEC"
    while end in written.split("\n"):
        end += "_"
    return f"{command} <<'{end}'\n{written}\n{end}\n"


def name_of(sweep: str, digest: str) -> str:
    """A name that KubeRay takes: a DNS label that begins with a letter, of at most LONGEST_NAME characters."""
    tail = f"-{digest[:8]}"
    label = re.sub(r"[^a-z0-9]+", "-", f"lacuna-{sweep}")
    return label[: LONGEST_NAME - len(tail)].rstrip("-") + tail


def as_yaml(manifest: dict[str, Any]) -> str:
    """The manifest as people read it: texts of several lines stand as blocks."""
    return yaml.dump(manifest, Dumper=_Blocks, sort_keys=False, width=120)


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as literal blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _block)
