"""How fast segments were trained, by pool: what plans of later sweeps are reckoned with."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The usual time of a step of one size on one pool."""

    pool: str
    device: str
    devices: int = 1
    """How many of them trained a run."""
    precision: str
    flops: float
    """FLOPs of the step, dense accounting."""
    seconds: float
    """Median over the segments, as their workers measured it: evaluation and checkpoints left out."""
    segments: int


def step_times(session: Session) -> list[StepTime]:
    """Times of the completed segments, by pool, device, number of devices, precision and size of a step. A segment that
    several sweeps share counts for the pool of the newest of them."""
    rows = session.execute(
        text("""
            WITH timed AS (
                SELECT key, split_part(program #>> '{numerics,device_type}', ':', 1) AS device,
                    coalesce(program #>> '{numerics,precision}', 'float32') AS precision,
                    round((flops / (end_step - start_step))::numeric, 0)::float8 AS flops,
                    1 / (result ->> 'steps_per_second')::float8 AS seconds
                FROM segments
                WHERE state = 'completed' AND (result ->> 'steps_per_second')::float8 > 0
            ), placed AS (
                SELECT DISTINCT ON (timed.key) timed.*, coalesce(sweeps.spec #>> '{execution,pool}', 'local') AS pool,
                    coalesce((sweeps.spec #>> '{execution,devices_per_run}')::int, 1) AS devices
                FROM timed JOIN run_segments ON segment_key = timed.key JOIN runs ON runs.id = run_id
                JOIN sweeps ON sweeps.id = sweep_id ORDER BY timed.key, sweeps.id DESC
            )
            SELECT pool, device, devices, precision, flops, count(*) AS segments,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds
            FROM placed GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
        """)
    )
    return [StepTime(**row._mapping) for row in rows]
