"""TPU slices: how many chips a topology has, how they lie on hosts, and what Ray calls them.

The chart has the same arithmetic in Helm's language (`deploy/helm/lacuna`); a test holds the two together.
"""

from __future__ import annotations

import re
from math import prod

from orchestrator.pools.accelerators import Accelerator


class PoolError(ValueError):
    """A pool that cannot exist, or is not declared; says which, why, and what would be right."""


def chips(topology: str) -> int:
    """Chips of a slice: "4x4" has 16, "2x2x2" has 8. Raises PoolError on anything that is no topology."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){1,2}", topology):
        raise PoolError(f"topology {topology!r} is none: write the sides as in 4x4 or 2x2x4")
    return prod(int(side) for side in topology.split("x"))


def chips_per_host(accelerator: Accelerator, topology: str) -> int:
    """Chips of a host where the pool does not say: up to 8 chips of v5e or v6e lie on one host, other hosts have 4."""
    total = chips(topology)
    usual = accelerator.chips_per_host[0]
    return total if total in accelerator.chips_per_host else usual


def hosts(topology: str, per_host: int) -> int:
    """Hosts of a slice, max(chips / chips per host, 1): v6e 4x4 with 4 has 4, v4 2x2x2 with 4 has 2.

    Raises PoolError where the slice does not fill its hosts.
    """
    total = chips(topology)
    if per_host < 1 or total % min(per_host, total) or per_host > total:
        raise PoolError(
            f"topology {topology} has {total} chip{'s' if total > 1 else ''}, which hosts of {per_host} cannot make up"
        )
    return max(total // per_host, 1)


def pod_type(accelerator: Accelerator, topology: str) -> str:
    """Ray's name of a slice, which counts cores where the generation does: v6e 4x4 is v6e-16, v4 2x2x2 is v4-16."""
    return f"{accelerator.ray_generation}-{chips(topology) * accelerator.cores_per_chip}"
