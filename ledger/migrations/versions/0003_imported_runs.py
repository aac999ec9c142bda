"""Runs that were trained elsewhere: they have no segments.

Revision ID: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A run may be without a tip."""
    op.alter_column("runs", "tip_key", nullable=True)
