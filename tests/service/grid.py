"""A sweep as the planner and the trainer leave it in the ledger, with losses from a known law and small noise."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

import fitter
from ledger import fits, runs
from ledger.models import Run, RunSegment, Segment, SegmentState, Sweep
from tests.ledger.forests import plant, run, segment

SIZES = (1.0e6, 4.0e6, 1.6e7, 6.4e7)
SPARSITIES = (0.0, 0.5, 0.75, 0.875)
LENGTHS = (1_000, 4_000, 16_000)
TOKENS_PER_STEP = 65_536

#: Close to the T5 law of the paper.
TRUE = {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651}


def true_loss(sparsity: float, nonzero_params: float, data: float) -> float:
    """The law that the losses come from."""
    capacity = (TRUE["a_S"] * (1 - sparsity) ** TRUE["b_S"] + TRUE["c_S"]) * nonzero_params ** -TRUE["b_N"]
    return capacity + (TRUE["a_D"] / data) ** TRUE["b_D"] + TRUE["c"]


def cells() -> list[dict[str, Any]]:
    """The grid in order, with the loss that each run will have."""
    noise = random.Random(7)
    return [
        {
            "sparsity": sparsity,
            "nonzero_params": size,
            "steps": steps,
            "data": float(steps * TOKENS_PER_STEP),
            "family": "t5",
            "method": "gmp" if sparsity else "dense",
            "pattern": "unstructured",
            "seed": 0,
            "loss": true_loss(sparsity, size, steps * TOKENS_PER_STEP) * math.exp(noise.gauss(0, 0.002)),
        }
        for size, sparsity, steps in itertools.product(SIZES, SPARSITIES, LENGTHS)
    ]


def mixed_table() -> list[dict[str, Any]]:
    """The grid's runs, and beside them 2:4 and 1:4 ones whose capacity falls faster with sparsity."""
    found = []
    for cell in cells():
        found.append(cell)
        pattern = {0.5: "2:4", 0.75: "1:4"}.get(cell["sparsity"])
        if pattern:
            found.append(
                {**cell, "pattern": pattern, "loss": cell["loss"] * math.exp(0.06 * cell["sparsity"])}
            )
    return found


def plant_grid(session: Session, name: str = "grid", tag: str = "") -> Sweep:
    """A sweep of 48 runs over a real forest: a dense trunk for each size, branches at a quarter of each length."""
    segments: dict[str, dict[str, Any]] = {}
    planned = []
    for cell in cells():
        size, sparsity, steps = cell["nonzero_params"], cell["sparsity"], cell["steps"]
        flops = 6.0 * size * TOKENS_PER_STEP
        edges = sorted({length // 4 for length in LENGTHS} | set(LENGTHS))
        trunk = [edge for edge in edges if edge <= (steps if sparsity == 0 else steps // 4)]
        path, start = [], 0
        for edge in trunk:
            key = f"{tag}N{size:g}-dense-{edge}"
            parent = path[-1] if path else None
            segments.setdefault(key, segment(key, parent, start, edge, flops=flops * (edge - start)))
            path.append(key)
            start = edge
        if sparsity:
            key = f"{tag}N{size:g}-S{sparsity:g}-{steps}"
            segments[key] = segment(key, path[-1], start, steps, flops=flops * (steps - start))
            path.append(key)
        values = {field: value for field, value in cell.items() if field != "loss"}
        name_of_run = f"N={size / 1e6:g}M S={100 * sparsity:g}% D={cell['data'] / 1e9:.3g}B {cell['method']}"
        planned.append(run(*path, name=name_of_run, **values))
    plan_ = {"saved": 0.31, "runs": len(planned), "segments": len(segments)}
    sweep = plant(session, name, list(segments.values()), planned)
    sweep.plan = plan_
    session.commit()
    return sweep


def complete(session: Session, sweep: Sweep, which: Mapping[str, Any] | None = None) -> int:
    """End the runs whose cell has these values (all by default), with their losses; how many."""
    losses = {(c["nonzero_params"], c["sparsity"], c["steps"]): c["loss"] for c in cells()}
    ended = []
    for row in session.query(Run).filter_by(sweep_id=sweep.id, state="pending").order_by(Run.position):
        if all(row.cell[field] == value for field, value in (which or {}).items()):
            loss = losses[row.cell["nonzero_params"], row.cell["sparsity"], row.cell["steps"]]
            row.state, row.loss = SegmentState.completed, loss
            row.completed_at = func.clock_timestamp()
            ended.append(row.id)
    paths = select(RunSegment.segment_key).where(RunSegment.run_id.in_(ended))
    session.execute(
        update(Segment)
        .where(Segment.key.in_(paths))
        .values(state=SegmentState.completed, completed_at=func.now()),
        execution_options={"synchronize_session": False},
    )
    session.commit()
    return len(ended)


@functools.cache
def document() -> dict[str, Any]:
    """The law of the whole grid, fitted once for the test session."""
    return fitter.fit(cells(), draws=100, report=False).document()


def store_law(session: Session, sweep: Sweep, **changes: Any) -> int:
    """Store the law of the whole grid as the sweep's next version, which is returned."""
    law = {**document(), **changes}
    rows = runs.table(session, sweep.name)
    stored = fits.add(
        session, sweep.id, form=law["form"], document=law, runs_digest=runs.digest(rows), runs=law["runs"]
    )
    session.commit()
    return stored.version
