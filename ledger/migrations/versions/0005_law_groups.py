"""A law for each group of a sweep's runs.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Laws so far are of sweeps whole."""
    op.add_column("fits", sa.Column("group_name", sa.Text, nullable=False, server_default=""))
