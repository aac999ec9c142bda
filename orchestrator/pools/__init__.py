"""Pools: kinds of nodes that sweeps run on, what they have, what they cost, and what a run on them asks of Ray."""

from orchestrator.pools.accelerators import ACCELERATORS, Accelerator, Price
from orchestrator.pools.declared import LOCAL, Pools, declared
from orchestrator.pools.pool import Pool
from orchestrator.pools.topology import PoolError, chips, hosts, pod_type

__all__ = [
    "ACCELERATORS",
    "LOCAL",
    "Accelerator",
    "Pool",
    "PoolError",
    "Pools",
    "Price",
    "chips",
    "declared",
    "hosts",
    "pod_type",
]
