"""How fast the service answers under load: p50 and p99 of `GET law` at a fixed rate, and a page of 1,000 runs.

    python benchmarks/service_load.py [--rate 200] [--seconds 20]

Makes a LACUNA_HOME of its own with an embedded Postgres, 50 sweeps of 1,000 runs and a law each, starts the service as
a process, and asks at a steady rate whether or not earlier answers have come (an open loop, so that a slow answer is
not hidden by the questions that it holds up). Budgets on 2 free cores: law p99 ≤ 15 ms at 200 requests/s; 1,000 runs
≤ 60 ms; idle ≤ 250 MiB. Exits 1 when one is broken. The load average is printed too: on a busy machine only the
service's own CPU time a request says anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
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


async def load(address: str, rate: float, seconds: float) -> list[float]:
    """Times, in ms, of questions asked at a steady rate, each counted from when it was due.

    Plain sockets: a full client takes more of the two cores than the service that it asks.
    """
    host, port = address.removeprefix("http://").split(":")
    due: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    times: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
        while True:
            number, at = await due.get()
            request = f"GET /v1/sweeps/sweep-{number % SWEEPS}/law HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
            writer.write(request.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            if at:
                times.append((time.perf_counter() - at) * 1e3)
            due.task_done()

    connections = [asyncio.create_task(connection()) for _ in range(32)]
    for number in range(SWEEPS):  # each law once: what is measured is the steady state
        due.put_nowait((number, 0.0))
    await due.join()
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        at = begun + number / rate
        if (early := at - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        due.put_nowait((number, at))
    await due.join()
    for task in connections:
        task.cancel()
    return times


def page_of_runs(address: str) -> list[float]:
    """Times, in ms, of pages of 1,000 runs."""
    times = []
    with httpx.Client(base_url=address) as client:
        for number in range(20):
            begun = time.perf_counter()
            answer = client.get(f"/v1/sweeps/sweep-{number}/runs?limit=1000")
            times.append((time.perf_counter() - begun) * 1e3)
            assert len(answer.json()["items"]) == RUNS
    return times


def main() -> int:
    """Fill, start, ask, stop; 1 where a budget is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
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
            spent = sum(process.cpu_times()[:2])
            law = sorted(asyncio.run(load(record["url"], options.rate, options.seconds)))
            spent = (sum(process.cpu_times()[:2]) - spent) / len(law) * 1e3
            runs = sorted(page_of_runs(record["url"]))
            after = process.memory_info().rss / 2**20
        finally:
            subprocess.run([*serve, "--stop"], env=environment, check=True)
    p99 = law[int(len(law) * 0.99)]
    print(
        f"law at {options.rate:g}/s: p50 {statistics.median(law):.1f} ms, p99 {p99:.1f} ms, worst {law[-1]:.1f} ms"
    )
    print(f"CPU of the service: {spent:.2f} ms a request; load average {os.getloadavg()[0]:.1f}")
    print(f"1,000 runs: median {statistics.median(runs):.1f} ms, worst {runs[-1]:.1f} ms")
    print(f"memory: {idle:.0f} MiB idle, {after:.0f} MiB after")
    return int(p99 > 15 or statistics.median(runs) > 60 or idle > 250)


if __name__ == "__main__":
    sys.exit(main())
