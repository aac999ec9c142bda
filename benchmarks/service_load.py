"""How fast the service answers under load: p50 and p99 of `GET law` at a fixed rate, and a page of 1,000 runs.

    python benchmarks/service_load.py [--rate 200] [--seconds 20] [--locust PATH]

Makes a LACUNA_HOME of its own with an embedded Postgres, 50 sweeps of 1,000 runs and a law each, starts the service as
a process, and has Locust's users ask it (service_users.py) at a steady rate, whether or not earlier answers have come.
Locust is a program of its own (`pip install locust`, in any environment). Budgets on 2 free cores: law p99 ≤ 15 ms at
200 requests/s; 1,000 runs ≤ 60 ms; idle ≤ 250 MiB. Exits 1 when one is broken. The load average is printed too: on a
busy machine only the service's own CPU time a request says anything. Locust counts whole milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import text
from sqlalchemy.orm import Session

import fitter
from ledger import fits, sweeps
from ledger.engine import open_ledger
from ledger.settings import Settings

SWEEPS, RUNS = 50, 1000
PROGRAM = "from orchestrator.command.main import main; main()"


def cells() -> list[dict[str, float]]:
    """1,000 runs of a law close to the paper's."""
    noise = random.Random(1)
    found = []
    for i in range(RUNS):
        sparsity, size, data = (
            (0, 0.5, 0.75, 0.875)[i % 4],
            1e6 * 4 ** (i // 4 % 5),
            1e9 * 2 ** (i // 20 % 50 / 8),
        )
        loss = (16.8 * (1 - sparsity) ** 0.722 + 45) * size**-0.245 + (6.9e8 / data) ** 0.203 + 0.651
        found.append(
            {
                "sparsity": sparsity,
                "nonzero_params": size,
                "data": data,
                "loss": loss * (1 + noise.gauss(0, 2e-3)),
            }
        )
    return found


def fill(settings: Settings) -> None:
    """50 sweeps of 1,000 completed runs, each with a law."""
    engine = open_ledger(settings)
    document = fitter.fit(cells()[:200], draws=500, report=False).document()
    for number in range(SWEEPS):
        segments = [
            {
                "key": f"{number}-{i}", "parent_key": None, "start_step": 0, "end_step": 100, "program": {},
                "data_path": "", "flops": 1e15, "priority": 0,
            }
            for i in range(RUNS)
        ]  # fmt: skip
        runs = [
            {
                "name": f"run {i}",
                "cell": {k: v for k, v in cell.items() if k != "loss"},
                "tip_key": f"{number}-{i}",
                "path": [f"{number}-{i}"],
            }
            for i, cell in enumerate(cells())
        ]
        with Session(engine) as session, session.begin():
            sweep = sweeps.add(
                session,
                name=f"sweep-{number}",
                spec={},
                spec_text="",
                spec_digest="",
                plan={},
                segments=segments,
                runs=runs,
            )
            fits.add(session, sweep.id, form="sparsity", document=document, runs_digest="", runs=RUNS)
    with engine.begin() as connection:
        connection.execute(text("UPDATE segments SET state = 'completed'"))
        connection.execute(
            text(
                """UPDATE runs SET state = 'completed', completed_at = now(), loss = measured.loss
                   FROM unnest(CAST(:losses AS double precision[])) WITH ORDINALITY AS measured (loss, number)
                   WHERE runs.position = measured.number - 1"""
            ),
            {"losses": [cell["loss"] for cell in cells()]},
        )
        connection.execute(text("UPDATE sweeps SET state = 'completed'"))
    engine.dispose()


@dataclass(frozen=True)
class Answers:
    """What Locust saw of one kind of question."""

    milliseconds: dict[int, int]
    """Time of an answer → how many took it."""

    @property
    def count(self) -> int:
        """How many answers came."""
        return sum(self.milliseconds.values())

    def quantile(self, share: float) -> int:
        """The time, in ms, that this share of the answers did not exceed."""
        seen = 0
        for time, count in sorted(self.milliseconds.items()):
            seen += count
            if seen >= share * self.count:
                return time
        raise ValueError("no answer came")


def asked(locust: str, address: str, user: str, users: int, seconds: float) -> Answers:
    """Has users of a kind ask for some seconds. Raises RuntimeError when an answer was no success."""
    file = Path(__file__).parent / "service_users.py"
    command = [locust, "-f", str(file), user, "--host", address, "-u", str(users), "-r", str(users)]
    command += ["-t", f"{seconds:g}s", "--headless", "--json", "--skip-log"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"locust failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (statistics,) = json.loads(done.stdout)
    return Answers({int(float(time)): count for time, count in statistics["response_times"].items()})


def main() -> int:
    """Fill, start, ask, stop; 1 where a budget is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--locust", default=shutil.which("locust"), help="the program, where it is not on the path"
    )
    options = parser.parse_args()
    if options.locust is None:
        parser.error("Locust is needed: pip install locust, or name it with --locust PATH")
    with tempfile.TemporaryDirectory(prefix="lacuna-load-", ignore_cleanup_errors=True) as home:
        settings = Settings(home=Path(home))
        fill(settings)
        serve = [sys.executable, "-c", PROGRAM, "serve"]
        environment = {**os.environ, "LACUNA_HOME": home}
        subprocess.run([*serve, "--detach", "--no-mlflow", "--port", "18700"], env=environment, check=True)
        try:
            record = json.loads((Path(home) / "serve.json").read_text())
            process = psutil.Process(record["pid"])
            idle = process.memory_info().rss / 2**20
            asked(options.locust, record["url"], "Asker", options.rate, 3)  # what follows is the steady state
            spent = sum(process.cpu_times()[:2])
            law = asked(options.locust, record["url"], "Asker", options.rate, options.seconds)
            spent = (sum(process.cpu_times()[:2]) - spent) / law.count * 1e3
            runs = asked(options.locust, record["url"], "Lister", 1, options.seconds / 4)
            after = process.memory_info().rss / 2**20
        finally:
            subprocess.run([*serve, "--stop"], env=environment, check=True)
    print(
        f"law, {law.count / options.seconds:.0f} a second: p50 {law.quantile(0.5)} ms, p99 {law.quantile(0.99)} ms, "
        f"worst {law.quantile(1)} ms"
    )
    print(f"CPU of the service: {spent:.2f} ms a request; load average {os.getloadavg()[0]:.1f}")
    print(f"1,000 runs: median {runs.quantile(0.5)} ms, worst {runs.quantile(1)} ms, of {runs.count}")
    print(f"memory: {idle:.0f} MiB idle, {after:.0f} MiB after")
    return int(law.quantile(0.99) > 15 or runs.quantile(0.5) > 60 or idle > 250)


if __name__ == "__main__":
    sys.exit(main())
