"""A controller against a Ray of several nodes, with token authentication: stand-ins for a GPU and a TPU pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger.settings import Settings
from orchestrator.submit import submit_text
from tests.controller import tiny
from tests.controller.nodes import Cluster, cluster
from tests.controller.processes import ControllerProcess
from tests.controller.watching import rows, scene, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

POOLS = """\
pools:
  - {name: gpus, accelerator: cpu, cpus: 1}
  - {name: tpus, accelerator: cpu, cpus: 1}
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head without CPUs."""
    with cluster() as made:
        yield made


def test_sweeps_land_on_their_pools_and_leave_nodes_that_die_or_are_drained(
    nodes: Cluster, settings: Settings, engine: Engine
) -> None:
    (settings.home / "pools.yaml").write_text(POOLS)
    there = Settings(
        home=settings.home, database_url=settings.database_url, pools=settings.home / "pools.yaml"
    )
    for pool, size in (("gpus", "[4000]"), ("tpus", "[8000]")):
        text = tiny.spec_text(
            settings.home, pool, nonzero_params=size, sparsity="[0.5]", steps="[40000]", checkpoint_every=40
        )
        submit_text(there, engine, text.replace("execution: {", f"execution: {{pool: {pool}, "))
        nodes.add(pool, cores=1, resources={f"pool:{pool}": 1})
    controller = ControllerProcess(
        there,
        None,
        environment={
            **nodes.environment,
            "RAY_ADDRESS": nodes.address,
            "LACUNA_POOLS": str(there.pools),
        },
    )

    def saw() -> str:
        return "\n".join(
            [
                scene(engine, settings.home),
                controller.tells(),
                nodes.tells(),
                nodes.ray("status", "--address", nodes.address),
            ]
        )

    def wait(condition: Callable[[], Any]) -> Any:
        return until(condition, saw=saw)

    def training_on(sweep: str) -> int | None:
        """The process that trains for the sweep, once it has left a checkpoint."""
        found = rows(
            engine,
            """SELECT worker FROM attempts JOIN segments ON key = attempts.segment_key
               JOIN runs ON runs.tip_key = key OR key IN (SELECT segment_key FROM run_segments WHERE run_id = runs.id)
               JOIN sweeps ON sweeps.id = sweep_id
               WHERE attempts.state = 'running' AND sweeps.name = :sweep AND progress_step IS NOT NULL""",
            sweep=sweep,
        )
        return int(found[0].worker.split(":")[1].split("/")[0]) if found else None

    try:
        for pool in ("gpus", "tpus"):
            assert nodes.node_of(wait(lambda pool=pool: training_on(pool))) == pool, saw()

        # The autoscaler would see what is missing; a node that comes takes the run on.
        nodes.kill("gpus")
        wait(lambda: rows(engine, "SELECT 1 FROM attempts WHERE kind = 'preempted'"))
        wait(
            lambda: (
                "pool:gpus" in nodes.ray("status", "--address", nodes.address).partition("Pending Demands")[2]
            )
        )
        nodes.add("more gpus", cores=1, resources={"pool:gpus": 1})

        # A drained node may finish nothing: another of its pool goes on from the checkpoint.
        nodes.add("more tpus", cores=1, resources={"pool:tpus": 1})
        wait(lambda: nodes.id_of("more tpus"))
        nodes.drain("tpus")
        for pool in ("gpus", "tpus"):
            wait(
                lambda pool=pool: (process := training_on(pool)) and nodes.node_of(process) == f"more {pool}"
            )
    finally:
        controller.kill()
    resumed = "SELECT 1 FROM attempts WHERE state = 'running' AND started_step > 0"
    assert len(rows(engine, resumed)) == 2, saw()
    assert rows(engine, "SELECT 1 FROM attempts WHERE state = 'failed'") == []
