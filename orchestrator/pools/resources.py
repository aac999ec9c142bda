"""What a run on a pool asks of Ray: CPU, a GPU or a share of one, or several of them or a whole TPU slice as one gang.

Nodes of a declared pool carry a marker, the custom resource `pool:<name>` (`ray start --resources
'{"pool:gpu": 1}'`; the chart writes it), so that a run lands on the pool that it names and the autoscaler knows which
group to grow.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.pools.pool import Pool
from orchestrator.pools.topology import pod_type

#: What a bundle takes of a node's marker, which is 1: so many runs fit on a node as far as the marker goes.
MARK = 0.001


@dataclass(frozen=True)
class Bundles:
    """A placement group of Ray: resources by bundle, and how they are spread."""

    bundles: tuple[dict[str, float], ...]
    strategy: str = "PACK"

    @property
    def gang(self) -> bool:
        """Whether several processes train a run, one in each bundle; they are placed together or not at all."""
        return len(self.bundles) > 1


def marker(pool: Pool) -> str:
    """The custom resource that the pool's nodes carry."""
    return f"pool:{pool.name}"


def bundles(pool: Pool, device: str, devices: int = 1) -> Bundles:
    """What one run takes: a bundle for each process that trains it. `device`, `devices`: the spec's execution.device
    and execution.devices_per_run; a run on the CPU takes no chip anywhere.

    Each GPU, and each core of a run on CPUs, has a process of its own; GPUs are of one node where a node has so many.
    A TPU slice of several hosts is taken by its head, which Ray gives away once, and by the chips of every host, in
    one placement group: a run has the whole slice or none of it.
    """
    mark = {} if pool.everywhere or pool.assumed else {marker(pool): MARK}
    if device == "cuda":
        gpu = {"CPU": 1.0, "GPU": pool.chips_per_run, **mark}
        return Bundles(_times(gpu, devices), "STRICT_PACK" if 1 < devices <= pool.per_host else "PACK")
    if device == "xla" and pool.kind == "tpu":
        host = {"CPU": 1.0, "TPU": float(pool.per_host), **mark}
        if pool.hosts == 1:
            return Bundles((host,))
        head = {**host, f"TPU-{pod_type(pool.spec, pool.topology)}-head": 1.0}
        return Bundles((head, *_times(host, pool.hosts - 1)), "STRICT_SPREAD")
    return Bundles(_times({"CPU": 1.0, **mark}, devices))


def _times(bundle: dict[str, float], count: int) -> tuple[dict[str, float], ...]:
    return tuple(dict(bundle) for _ in range(count))
