"""Alembic's entry: run the revisions on the connection that `migrate` holds, in one transaction."""

from __future__ import annotations

from alembic import context

from ledger.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, compare_type=True
)
with context.begin_transaction():
    context.run_migrations()
