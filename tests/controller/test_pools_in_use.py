"""Sweeps train on the pools that they name."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger.settings import Settings
from ledger.sweeps import Place
from orchestrator import controller
from orchestrator.controller.cluster import ray_cluster
from orchestrator.controller.placing import Placing
from orchestrator.pools import PoolError, declared
from orchestrator.submit import submit_text
from tests.controller import tiny
from tests.controller.watching import completed_twice, rows

POOLS = """\
pools:
  - {name: narrow, accelerator: cpu, cpus: 1}
  - {name: wide, accelerator: cpu, cpus: 2}
  - {name: slices, accelerator: tpu-v6e-slice, topology: 2x4, chipsPerHost: 4}
  - {name: chips, accelerator: tpu-v6e-slice, topology: 1x1}
"""


@pytest.fixture
def pooled(settings: Settings, tmp_path: Path) -> Settings:
    """The settings, with pools declared and a file store of MLflow."""
    (tmp_path / "pools.yaml").write_text(POOLS)
    return Settings(
        home=settings.home,
        database_url=settings.database_url,
        tracking_uri=f"sqlite:///{settings.home}/mlflow.db",
        pools=tmp_path / "pools.yaml",
    )


def submit(settings: Settings, engine: Engine, name: str, execution: str, **options: str) -> None:
    text = tiny.spec_text(settings.home, name, **options)  # type: ignore[arg-type]
    submit_text(settings, engine, text.replace("execution: {", f"execution: {{{execution}, "))


@pytest.mark.timeout(900)
def test_each_pool_trains_as_many_runs_at_a_time_as_it_has_room_for(pooled: Settings, engine: Engine) -> None:
    submit(pooled, engine, "one", "pool: narrow", nonzero_params="[4000, 8000]", sparsity="[0]", steps="[20]")
    submit(pooled, engine, "two", "pool: wide, max_concurrent: 2", sparsity="[0, 0.5]", steps="[40]")
    # An adaptive one begins with two of its four cells, and is led to its end.
    adaptive = "pool: wide, max_concurrent: 1, strategy: adaptive, budget_flops: 1e30"
    submit(pooled, engine, "three", adaptive, nonzero_params="[6000]")
    assert (
        len(
            rows(engine, "SELECT 1 FROM runs JOIN sweeps ON sweeps.id = sweep_id WHERE sweeps.name = 'three'")
        )
        == 2
    )
    placing = Placing(declared(pooled))
    with ray_cluster(pooled, cores=2, resources=placing.markers()):
        assert controller.run(pooled, ["one", "two", "three"]).ok
        # A slice of two hosts is one placement group: all or nothing.
        gang = placing.request({"pool": "slices", "device": "xla", "devices": 8})
    assert completed_twice(engine) == []
    assert rows(engine, "SELECT count(*) FROM runs WHERE loss IS NOT NULL") == [(8,)]
    [(stopped,)] = rows(
        engine,
        "SELECT plan #>> '{adaptive,stopped}' FROM sweeps WHERE name = 'three' AND state = 'completed'",
    )
    assert stopped == "every cell of the grid was chosen"
    assert gang.strategy == "STRICT_SPREAD"
    assert gang.bundles == [
        {"CPU": 1, "TPU": 4, "pool:slices": 0.001, "TPU-v6e-8-head": 1},
        {"CPU": 1, "TPU": 4, "pool:slices": 0.001},
    ]
    together = rows(
        engine,
        """SELECT first.id FROM attempts first JOIN attempts second ON first.id < second.id
             AND first.started_at < second.ended_at AND second.started_at < first.ended_at
           WHERE (SELECT count(DISTINCT key) FROM segments JOIN run_segments ON segment_key = key
                  JOIN runs ON runs.id = run_id JOIN sweeps ON sweeps.id = sweep_id
                  WHERE sweeps.name = 'one' AND key IN (first.segment_key, second.segment_key)) = 2""",
    )
    assert together == []


def test_a_pool_that_this_machine_cannot_stand_for_is_refused_before_anything_starts(
    pooled: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    submit(pooled, engine, "tpu", "pool: chips, device: xla")
    with pytest.raises(PoolError, match=r"needs nodes with tpu-v6e-slice 1x1.*RAY_ADDRESS"):
        controller.run(pooled, ["tpu"])
    without = Settings(home=pooled.home, database_url=pooled.database_url)
    with pytest.raises(PoolError, match="there is no pool 'chips'"):
        controller.run(without, ["tpu"])


def test_more_processes_for_a_run_than_this_machine_has_are_refused_before_anything_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    placing = Placing(declared(settings))
    with pytest.raises(PoolError, match=r"execution\.devices_per_run is 100000: take less, or another pool"):
        placing.check(Place("local", "cpu", 100_000))
