"""What MLflow lacks of the ledger. Asked by those that decide whether to start a mirror, so without MLflow."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

#: SQL: whether MLflow lacks something of the run `runs`.
RUN_BEHIND = """
    NOT runs.tracked_final AND (runs.state <> 'pending' OR EXISTS (
        SELECT 1 FROM run_segments JOIN metric_points USING (segment_key)
        WHERE run_id = runs.id AND metric_points.name = 'loss' AND step > runs.tracked_step))
"""


def behind(session: Session) -> list[int]:
    """Ids of the sweeps that have something MLflow lacks, oldest first."""
    return list(
        session.scalars(
            text(f"""
                SELECT id FROM sweeps WHERE tracking_id IS NULL
                    OR EXISTS (SELECT 1 FROM runs WHERE sweep_id = sweeps.id AND {RUN_BEHIND})
                    OR EXISTS (SELECT 1 FROM fits WHERE sweep_id = sweeps.id AND tracking_id IS NULL)
                ORDER BY id
            """)
        )
    )
