"""A sweep of the quickstart's form beside its 36 cells as separate Ray Tune trials, without sharing and without packs.

    python benchmarks/sweep_time.py --scale 0.1          lengths a tenth of the quickstart's; 1: as it is

Both train on the same prepared data with the same trainer, on `--cores` cores, and both start from nothing: processes,
Ray, database and imports count. Separate trials get what `tune.Tuner` gives by default: a process each, as many at a
time as there are cores; `--one-by-one`: one at a time. Wall times are of this machine: read the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ledger.settings import Settings
from orchestrator.at_hand import data_source, plan_for
from orchestrator.controller.cluster import ENVIRONMENT, private_token
from orchestrator.spec import load_spec_file
from trainer.data.prepare import prepare

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"


def scaled(scale: float, path: Path) -> Path:
    """The quickstart's spec with lengths, periods and warm-up times `scale`."""
    import yaml

    spec = yaml.safe_load(QUICKSTART.read_text())
    spec["grid"]["steps"] = [round(steps * scale) for steps in spec["grid"]["steps"]]
    # An end of pruning must be reached exactly: the shortest run's quarter is a multiple of it.
    spec["pruning"]["every"] = max(1, round(spec["pruning"]["every"] * scale))
    spec["execution"] |= {
        name: max(1, round(spec["execution"][name] * scale))
        for name in ("checkpoint_every", "evaluate_every")
    }
    spec["data"]["evaluation_batches"] = max(2, round(spec["data"]["evaluation_batches"] * scale))
    path.write_text(yaml.safe_dump(spec))
    return path


def as_a_sweep(spec: Path, home: Path, cores: int) -> float:
    """Seconds of `lacuna run`."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "orchestrator.command.main", "run", str(spec), "--max-concurrent", str(cores)],
        env={**os.environ, "LACUNA_HOME": str(home)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def as_trials(spec: Path, home: Path, cores: int, at_a_time: int) -> float:
    """Seconds of a Ray Tune grid with one trial for each cell."""
    programs = home / "programs.json"
    settings = Settings(home=home)
    plan = plan_for(settings, load_spec_file(spec), None)
    programs.write_text(json.dumps([run.program.to_dict() for run in plan.runs]))
    began = time.perf_counter()
    code = (
        f"from benchmarks.sweep_time import train_trials; train_trials({str(home)!r}, {cores}, {at_a_time})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def train_trials(home: str, cores: int, at_a_time: int) -> None:
    """In a process of its own: every program of `home`/programs.json as a trial."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    private_token()
    import ray
    from ray import tune

    programs = json.loads(Path(home, "programs.json").read_text())
    data = str(next(Path(home, "data").glob("*/manifest.json")).parent)

    def trial(config: dict[str, Any]) -> dict[str, float]:
        from trainer.metrics import NoSink
        from trainer.program import Program
        from trainer.segment import train_segment

        program = Program.from_dict(programs[config["cell"]])
        result = train_segment(
            program,
            0,
            program.steps,
            data=Path(data),
            parent=None,
            output=f"{home}/alone/{config['cell']}",
            sink=NoSink(),
            log_every=20,
        )
        return {"loss": result.loss}

    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, _temp_dir=f"{home}/r")
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"cell": tune.grid_search(list(range(len(programs))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_a_time, metric="loss", mode="min"),
        run_config=tune.RunConfig(storage_path=f"{home}/tune", verbose=0),
    )
    found = tuner.fit()
    assert not found.errors, found.errors
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--turns", type=int, default=1, help="each way so many times, in turns")
    chosen = parser.parse_args()
    sweep: list[float] = []
    trials: list[float] = []
    with tempfile.TemporaryDirectory(prefix="st-", ignore_cleanup_errors=True) as scratch:
        spec = scaled(chosen.scale, Path(scratch, "spec.yaml"))
        for turn in range(chosen.turns):
            for seconds, name in ((sweep, "s"), (trials, "t")):
                home = Path(scratch, f"{name}{turn}")
                prepare(data_source(load_spec_file(spec)), home / "data")
                if seconds is sweep:
                    sweep.append(as_a_sweep(spec, home, chosen.cores))
                else:
                    at_a_time = 1 if chosen.one_by_one else chosen.cores
                    trials.append(as_trials(spec, home, chosen.cores, at_a_time))
                print(
                    f"{'sweep' if seconds is sweep else 'separate trials'}: {seconds[-1]:.1f} s", flush=True
                )
    print(f"sweep / separate trials: {min(sweep) / min(trials):.2f} at scale {chosen.scale:g}")


if __name__ == "__main__":
    main()
