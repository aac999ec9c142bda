"""What the controller costs: no-op segments through ledger, leases and Tune, beside a bare Ray Tune grid of no-op
trials, one after the other, each in a fresh Ray.

    python -m benchmarks.controller_overhead --trials 5000 --workers 2

Prints one JSON object: milliseconds of wall time a trial for both, and how much memory the controller's process grew
by for each finished run. Without --tracking nothing goes to MLflow, as in bare Tune.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy.orm import Session

from ledger import sweeps
from ledger.engine import open_ledger
from ledger.progress import Progress
from ledger.settings import Settings
from orchestrator import controller
from orchestrator.controller import lead
from orchestrator.controller.cluster import ENVIRONMENT, OBJECT_STORE, private_token, ray_directory
from trainer.program import DataStream, LearningRate, Program


def plant(settings: Settings, trials: int) -> None:
    """A sweep of so many runs of one segment each, behind trunks of twenty."""
    program = Program(
        family="t5",
        shape={"d_model": 4},
        data=DataStream(digest="0"),
        batch_size=1,
        steps=10,
        learning_rate=LearningRate(schedule="constant"),
    ).to_dict()

    def segment(key: str, parent: str | None, start: int) -> dict[str, Any]:
        place = {"key": key, "parent_key": parent, "start_step": start, "end_step": start + 5}
        return {**place, "program": program, "data_path": "/", "flops": 1.0, "priority": 0 if parent else 1}

    trunks = [f"trunk {index}" for index in range(max(1, trials // 20))]
    tips = [(f"tip {index}", trunks[index % len(trunks)]) for index in range(trials - len(trunks))]
    runs = [
        {
            "name": tip,
            "cell": {"sparsity": 0, "nonzero_params": 1, "data": 1},
            "tip_key": tip,
            "path": [trunk, tip],
        }
        for tip, trunk in tips
    ]
    engine = open_ledger(settings)
    with Session(engine) as session, session.begin():
        sweeps.add(
            session,
            **{"name": "noop", "spec": {}, "spec_text": "", "spec_digest": "", "plan": {}, "runs": runs},
            segments=[segment(key, None, 0) for key in trunks]
            + [segment(key, parent, 5) for key, parent in tips],
        )
    engine.dispose()


def bare_tune(trials: int, workers: int, storage: Path) -> float:
    """Seconds for a Ray Tune grid of as many trials that do nothing, its actors reused and its loggers off."""
    from ray import tune

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"done": True, "loss": 1.0}

    began = time.monotonic()
    results = tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=workers),
        run_config=tune.RunConfig(
            storage_path=str(storage),
            verbose=0,
            # Else Tune asks each trial for a checkpoint, the trial fails, and its actor is not reused.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    assert not results.errors
    return time.monotonic() - began


def start_ray(settings: Settings, workers: int, runtime_env: dict[str, Any]) -> None:
    """A private Ray for one of the two."""
    import ray

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(ray_directory(settings)),
        _node_ip_address="127.0.0.1",
        runtime_env=runtime_env,
    )


class Memory:
    """Resident bytes of this process while runs complete."""

    def __init__(self) -> None:
        self._samples: list[tuple[int, int]] = []

    def sample(self, state: Progress) -> None:
        """Called about once a second."""
        self._samples.append((state.completed, psutil.Process().memory_info().rss))

    def bytes_per_run(self) -> float:
        """Growth over the last three quarters of the runs: imports and first buffers are not theirs."""
        total = self._samples[-1][0]
        late = [sample for sample in self._samples if sample[0] > total / 4]
        (first_runs, first), (last_runs, last) = late[0], late[-1]
        return (last - first) / max(1, last_runs - first_runs)


def main() -> None:
    """Both, each in a fresh Ray."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tracking", action="store_true", help="with the MLflow mirror; bare Tune has none")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="lb-"))
    settings = Settings(home=home, tracking_uri=f"sqlite:///{home}/mlflow.db")
    os.environ.update(ENVIRONMENT)
    private_token()
    # Ray's workers import the stand-in before they hear of this process's path.
    os.environ["PYTHONPATH"] = os.getcwd()
    import ray

    if not given.tracking:
        lead.mirroring = lambda *_: nullcontext()
    start_ray(settings, given.workers, {})
    # More, and Tune starts processes instead of reusing its actors.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
    bare = bare_tune(given.trials, given.workers, home / "bare")
    ray.shutdown()
    start_ray(settings, given.workers, {"worker_process_setup_hook": "benchmarks.controller_noop.install"})
    plant(settings, given.trials)
    memory = Memory()
    # Both pay for their imports and their workers' start.
    began = time.monotonic()
    outcome = controller.run(settings, ["noop"], max_concurrent=given.workers, on_progress=memory.sample)
    ours = time.monotonic() - began
    assert outcome.ok
    ray.shutdown()
    print(
        json.dumps(
            {
                "trials": given.trials,
                "workers": given.workers,
                "tracking": given.tracking,
                "controller_ms_per_trial": round(1000 * ours / given.trials, 2),
                "bare_tune_ms_per_trial": round(1000 * bare / given.trials, 2),
                "controller_bytes_per_run": round(memory.bytes_per_run()),
            }
        )
    )
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
