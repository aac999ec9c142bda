"""Small forests as the planner would hand them to the ledger, with made-up keys that tell what they are."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from ledger import sweeps
from ledger.models import Sweep


def segment(key: str, parent: str | None, start: int, end: int, **more: Any) -> dict[str, Any]:
    """A segment of 100 FLOPs a step."""
    return {
        "key": key,
        "parent_key": parent,
        "start_step": start,
        "end_step": end,
        "program": {"family": "t5", "key": key},
        "data_path": "/data",
        "flops": 100.0 * (end - start),
        "priority": 0,
    } | more


def run(*path: str, name: str | None = None, **cell: Any) -> dict[str, Any]:
    """A run through these segments."""
    values = {
        "sparsity": 0.5,
        "nonzero_params": 1000,
        "data": 4096.0,
        "family": "t5",
        "steps": 100,
        "seed": 0,
    }
    return {"name": name or f"to {path[-1]}", "cell": values | cell, "tip_key": path[-1], "path": list(path)}


#: A trunk of 50 steps with two branches, and the trunk's own continuation.
SEGMENTS = [
    segment("trunk", None, 0, 50, priority=10),
    segment("dense", "trunk", 50, 100),
    segment("half", "trunk", 50, 100),
    segment("most", "trunk", 50, 100),
]
RUNS = [
    run("trunk", "dense", sparsity=0.0),
    run("trunk", "half", sparsity=0.5),
    run("trunk", "most", sparsity=0.75),
]


def plant(
    session: Session,
    name: str = "sweep",
    segments: list[dict[str, Any]] | None = None,
    runs: list[dict[str, Any]] | None = None,
    **execution: Any,
) -> Sweep:
    """Add a sweep and commit."""
    sweep = sweeps.add(
        session,
        name=name,
        spec={"execution": {"attempts": 3} | execution, "law": {"form": "sparsity"}},
        spec_text=f"name: {name}",
        spec_digest="0" * 64,
        plan={},
        segments=SEGMENTS if segments is None else segments,
        runs=RUNS if runs is None else runs,
    )
    session.commit()
    return sweep


def result(step: int, loss: float = 2.5) -> dict[str, Any]:
    """What a trainer returns, as far as the ledger looks at it."""
    return {"loss": loss, "step": step, "seconds": 1.0}
