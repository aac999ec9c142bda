"""What tracking costs training: steps of 20 ms with one metric point each, beside the same steps with none.

    python -m benchmarks.tracking_overhead

A step is 20 ms of work for the interpreter, as small models on a CPU are. Blocks with and without alternate, so that
the machine's other load falls on both. The points go the whole way: spool, journal, heartbeats, batched inserts into
Postgres. Told apart: the processor's time of a point on the training thread, and of the lease's thread, which need no
second measurement beside them. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.controller_overhead import plant
from ledger import attempts
from ledger.engine import connect, ledger_url
from ledger.models import AttemptState
from ledger.settings import Settings
from orchestrator.controller.lease import Lease
from orchestrator.tracking.journal import Journal, folder_of, replay
from orchestrator.tracking.machine import Machine
from orchestrator.tracking.spool import Spool
from trainer.metrics import MetricSink, NoSink


def work(loops: int) -> int:
    """Some bytecode."""
    total = 0
    for number in range(loops):
        total += number
    return total


def block(sink: MetricSink, first: int, steps: int, loops: int) -> tuple[float, float]:
    """CPU seconds of this process for so many steps (what the training thread and the lease's thread take together),
    and seconds on the clock."""
    wall, began = time.perf_counter(), time.process_time()
    for step in range(first, first + steps):
        work(loops)
        sink.point(step, "loss", 1.0 / step)
    return time.process_time() - began, time.perf_counter() - wall


def others_seconds() -> float:
    """CPU seconds of this process's other threads, as the kernel counts them (in hundredths)."""
    return sum(
        thread.user_time + thread.system_time
        for thread in psutil.Process().threads()
        if thread.id != threading.get_native_id()
    )


def main() -> None:
    """Alternate, compare, and count what arrived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=12, help="blocks of 500 steps of each kind")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="lt-"))
    settings = Settings(home=home)
    plant(settings, 2)
    engine = connect(ledger_url(settings), pool_size=2)
    with Session(engine) as session, session.begin():
        claim = attempts.claim(session, "trunk 0", "benchmark", "here:1")
    assert claim is not None
    # Its segment is five steps long; the points go further.
    claim = replace(claim, end_step=10**9)
    journals = folder_of(home, ledger_url(settings))
    loops = 10_000
    for _ in range(5):
        loops = round(loops * 0.02 / (block(NoSink(), 1, 20, loops)[0] / 20))
    steps, cpu, wall, beside, seconds = 500, [], [], 0.0, 0.0
    for number in range(given.blocks):
        alone = block(NoSink(), 1, steps, loops)
        spool = Spool(Machine().sample, Journal(journals, claim.segment_key, claim.attempt_id))
        with Lease(engine, claim, spool):
            before = others_seconds()
            tracked = block(spool, 1 + number * steps, steps, loops)
            beside += others_seconds() - before
        seconds += tracked[1]
        cpu.append(tracked[0] / alone[0] - 1)
        wall.append(tracked[1] / alone[1] - 1)
    with Lease(engine, claim, Spool()) as lease:
        lease.end(lambda session: attempts.stop(session, claim.attempt_id, "done"), AttemptState.stopped)
    # What no heartbeat took, as after a kill; the very last step counts as unfinished.
    replay(engine, journals)
    spool = Spool(Machine().sample, Journal(home / "points", claim.segment_key, claim.attempt_id))
    began = time.thread_time()
    for step in range(20_000):
        spool.point(step, "loss", 1.0)
    point = (time.thread_time() - began) / 20_000
    with engine.connect() as connection:
        stored = connection.scalar(text("SELECT count(*) FROM metric_points WHERE name = 'loss'"))
    engine.dispose()
    shutil.rmtree(home, ignore_errors=True)
    print(
        json.dumps(
            {
                "step_ms": 20,
                "points": given.blocks * steps,
                "points_stored": stored,
                "point_us": round(1e6 * point, 1),
                "point_percent": round(100 * point / 0.02, 3),
                "lease_thread_percent": round(100 * beside / seconds, 2),
                "overhead_percent_median": round(100 * statistics.median(cpu), 2),
                "overhead_percent_lowest": round(100 * min(cpu), 2),
                "overhead_percent_highest": round(100 * max(cpu), 2),
                "overhead_wall_percent_median": round(100 * statistics.median(wall), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
