"""From the pool that a sweep names to resources of Ray, and how many of its runs train at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ledger.sweeps import Place, Placed
from orchestrator.pools import LOCAL, Pool, PoolError, Pools
from orchestrator.pools.declared import this_machine
from orchestrator.pools.resources import bundles, marker

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placing:
    """The pools of a controller, and the Ray that they lie on.

    limit: workers at a time of any one place, as the user of the command says; None: as many as there is room for.
    """

    pools: Pools
    limit: int | None = None

    def check(self, place: Place) -> Pool:
        """The pool of a place, if runs can be placed there. Raises PoolError, which says what is missing."""
        pool = self.pools.check(*place)
        if "RAY_ADDRESS" in os.environ:
            return pool
        if _here(pool, place.device):
            if pool.everywhere and not pool.runs(place.device, place.devices):
                raise PoolError(
                    f"this machine has {pool.runs(place.device)} devices {place.device!r}, and "
                    f"execution.devices_per_run is {place.devices}: take less, or another pool"
                )
            return pool
        needed = f"{pool.accelerator} {pool.topology}".strip()
        raise PoolError(
            f"pool {pool.name!r} needs nodes with {needed}, and this machine has none: "
            f"set RAY_ADDRESS to a Ray cluster that has, or execution.pool to {LOCAL}"
        )

    def workers(self, place: Place, placed: Placed) -> int:
        """How many runs may train there at a time: what the pool has at most, and the sweeps and the user allow."""
        pool = self.check(place)
        room = _room(pool, place)
        return max(1, min(room, *(n for n in (placed.max_concurrent, self.limit, room) if n is not None)))

    def devices(self, place: Place) -> int:
        """The devices of that kind that its pool has at most."""
        return _room(self.check(place), place._replace(devices=1))

    def request(self, config: Mapping[str, Any]) -> PlacementGroupFactory:
        """What a trial takes of Ray: one placement group, all or nothing; `config` as the searcher hands it out."""
        from ray.tune import PlacementGroupFactory

        wanted = bundles(self.pools.get(config["pool"]), config["device"], config["devices"])
        return PlacementGroupFactory([dict(bundle) for bundle in wanted.bundles], strategy=wanted.strategy)

    def markers(self) -> dict[str, float]:
        """Custom resources of a private Ray's only node: it stands for every declared pool (see `check`)."""
        return {marker(pool): 1.0 for pool in self.pools if not pool.everywhere}


def _here(pool: Pool, device: str) -> bool:
    """Whether this machine alone can do what runs with that device on that pool need."""
    if device == "cuda":
        return this_machine().kind == "gpu"
    return not (device == "xla" and pool.kind == "tpu")


def _room(pool: Pool, place: Place) -> int:
    if not pool.everywhere:
        return pool.runs(place.device, place.devices)
    import ray

    there = ray.cluster_resources()
    share = pool.chips_per_run if place.device == "cuda" else 1.0
    return int(there.get("GPU" if place.device == "cuda" else "CPU", 0) / share / place.devices)
