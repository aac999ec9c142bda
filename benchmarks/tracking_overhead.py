"""What tracking costs training: steps of 20 ms with one metric point each, beside the same steps with none.

    python -m benchmarks.tracking_overhead

A step is 20 ms of work for the interpreter, as small models on a CPU are. Blocks with and without alternate, so that
the machine's other load falls on both. The points go the whole way: spool, heartbeats, batched inserts into Postgres.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.controller_overhead import plant
from ledger import attempts
from ledger.engine import connect, ledger_url
from ledger.models import AttemptState
from ledger.settings import Settings
from orchestrator.controller.worker import Lease
from orchestrator.tracking.spool import Spool
from trainer.metrics import MetricSink, NoSink


def work(loops: int) -> int:
    """Some bytecode."""
    total = 0
    for number in range(loops):
        total += number
    return total


def block(sink: MetricSink, first: int, steps: int, loops: int) -> float:
    """CPU seconds of this process for so many steps: what the training thread and the lease's thread take together."""
    began = time.process_time()
    for step in range(first, first + steps):
        work(loops)
        sink.point(step, "loss", 1.0 / step)
    return time.process_time() - began


def main() -> None:
    """Alternate, compare, and count what arrived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10, help="blocks of 250 steps of each kind")
    given = parser.parse_args()
    settings = Settings(home=Path(tempfile.mkdtemp(prefix="lt-")))
    plant(settings, 2)
    engine = connect(ledger_url(settings), pool_size=2)
    with Session(engine) as session, session.begin():
        claim = attempts.claim(session, "trunk 0", "benchmark", "here:1")
    assert claim is not None
    # Its segment is five steps long; the points go further.
    claim = replace(claim, end_step=10**9)
    spool = Spool()
    loops = 10_000
    for _ in range(5):
        loops = round(loops * 0.02 / (block(NoSink(), 1, 20, loops) / 20))
    steps, shares = 250, []
    for number in range(given.blocks):
        without = block(NoSink(), 1, steps, loops)
        with Lease(engine, claim, spool):
            shares.append(block(spool, 1 + number * steps, steps, loops) / without - 1)
    with Lease(engine, claim, spool) as lease:
        lease.end(lambda session: attempts.stop(session, claim.attempt_id, "done"), AttemptState.stopped)
    with engine.connect() as connection:
        stored = connection.scalar(text("SELECT count(*) FROM metric_points"))
    engine.dispose()
    print(
        json.dumps(
            {
                "step_ms": 20,
                "points": given.blocks * steps,
                "points_stored": stored,
                "overhead_percent_median": round(100 * statistics.median(shares), 2),
                "overhead_percent_highest": round(100 * max(shares), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
