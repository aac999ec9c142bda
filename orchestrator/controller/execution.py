"""One Ray Tune experiment over the ledger: from the first ready segment until nothing is wanted."""

from __future__ import annotations

import os
import threading

from sqlalchemy import Engine

from ledger.settings import Settings
from orchestrator.controller.cluster import ray_cluster
from orchestrator.controller.orders import Assignment
from orchestrator.controller.own_folder import own_folder
from orchestrator.controller.placing import Placing
from orchestrator.controller.supervisor import Supervisor


def carry_out(
    engine: Engine,
    settings: Settings,
    supervisor: Supervisor,
    assignment: Assignment,
    placing: Placing,
    cores: int,
    stopping: threading.Event,
) -> None:
    """Run workers where the sweeps' pools are until the ledger wants nothing more or `stopping` is set. A private Ray
    has `cores` CPUs.

    Tune schedules and watches; what is done, failed or to be tried again is the ledger's business: a trial that fails
    is not retried by Tune, and its snapshots are thrown away.
    """
    with ray_cluster(settings, cores, placing.markers()), own_folder(settings.home / "tune") as storage:
        # Seconds to import: only where there is something to carry out.
        from ray import tune

        from orchestrator.controller.deaths import Deaths
        from orchestrator.controller.searcher import LedgerSearcher
        from orchestrator.controller.trainable import SegmentTrainable
        from orchestrator.controller.turns import Turns

        searcher = LedgerSearcher(engine, sweep_ids=assignment.sweep_ids, placing=placing, stopping=stopping)
        supervisor.searcher = searcher
        # The searcher keeps to what each pool has room for.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "100000"
        trainable = tune.with_resources(
            tune.with_parameters(SegmentTrainable, assignment=assignment), placing.request
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=Turns(searcher),
                num_samples=-1,
                reuse_actors=True,
                metric=None,
                mode=None,
            ),
            run_config=tune.RunConfig(
                name=assignment.controller,
                storage_path=str(storage),
                verbose=0,
                callbacks=[Deaths(searcher.lost_trials)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        finally:
            supervisor.searcher = None
