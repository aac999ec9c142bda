"""A ledger with a sweep whose runs are done, with losses that follow a law, without any training."""

from __future__ import annotations

import itertools
import math
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, points, segments
from tests.ledger.forests import plant, segment

SPARSITIES = (0.0, 0.5, 0.75, 0.875)
SIZES = (5e3, 1e4, 2e4, 6e4)
LENGTHS = (100, 200, 400, 1000)
BATCH_TOKENS = 1000


def loss(sparsity: float, nonzero_params: float, data: float) -> float:
    """A law of the paper's form with round coefficients, and a fixed trace of noise."""
    noise = 1e-3 * math.sin(1e3 * sparsity + nonzero_params + data)
    factor = (16.8 * (1 - sparsity) ** 0.722 + 45) / 61.8
    return (factor * (60 / nonzero_params) ** 0.245 + (3000 / data) ** 0.3 + 0.6) * (1 + noise)


def plant_grid(session: Session, name: str, prefix: str = "") -> list[dict[str, Any]]:
    """A sweep of one run for each cell: a trunk for each size, a branch for each cell. Nothing is done yet."""
    parts, cells = [], []
    for size in SIZES:
        trunk = f"{prefix}trunk {size:g}"
        parts.append(segment(trunk, None, 0, 50, priority=9))
        for sparsity, steps in itertools.product(SPARSITIES, LENGTHS):
            key = f"{prefix}{size:g} {sparsity:g} {steps}"
            parts.append(segment(key, trunk, 50, steps))
            data = steps * BATCH_TOKENS
            cell = {
                **{"sparsity": sparsity, "nonzero_params": size, "data": float(data), "family": "t5"},
                **{
                    "pattern": "unstructured",
                    "method": "gmp" if sparsity else "dense",
                    "seed": 0,
                    "steps": steps,
                },
                "dense_params": size / (1 - sparsity),
            }
            cells.append(
                {"name": f"N={size:g} S={sparsity:.1%}", "cell": cell, "tip_key": key, "path": [trunk, key]}
            )
    plant(session, name, parts, cells)
    return cells


def finish(engine: Engine, key: str, value: float = 3.0) -> None:
    """Train a segment, so to speak: a point at its end, then its completion."""
    with Session(engine) as session, session.begin():
        claim = attempts.claim(session, key, "c", "host:1/1")
        assert claim is not None
        for step in (claim.start_step + 10, claim.end_step):
            points.insert(session, claim.attempt_id, key, [(step, "loss", value), (step, "sparsity", 0.0)])
        result = {"loss": value, "step": claim.end_step, "nonzero_params": 100, "sparsity_reached": 0.5}
        attempts.complete(session, claim.attempt_id, result, f"/storage/{key}")


def finish_all(engine: Engine, cells: list[dict[str, Any]]) -> None:
    """Finish the runs of these cells, trunks first, with the law's losses; what is done stays."""
    wanted = dict.fromkeys((cell["path"][0] for cell in cells), 3.0)
    for cell in cells:
        values = cell["cell"]
        wanted[cell["tip_key"]] = loss(values["sparsity"], values["nonzero_params"], values["data"])
    for key, value in wanted.items():
        with Session(engine) as session:
            done = segments.get(session, key).state == "completed"
        if not done:
            finish(engine, key, value)
