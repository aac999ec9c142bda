"""An index on the runs that have not ended.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """A finished sweep is recognised without reading its finished runs."""
    op.create_index("runs_waiting", "runs", ["sweep_id"], postgresql_where=sa.text("state = 'pending'"))
