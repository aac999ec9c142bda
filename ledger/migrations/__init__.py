"""The ledger's history of tables, as Alembic revisions under `versions/`.

A new revision: change `ledger/models.py`, write `versions/NNNN_what.py` by hand (the test that compares models with
migrations prints the difference), and set HEAD to it.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from ledger.errors import LedgerError

#: The newest revision: known without importing Alembic, so that a command on a current ledger starts quickly.
HEAD = "0005"

#: Advisory lock that one migrating process holds. Any number that nothing else uses.
MIGRATION_LOCK = 0x1AC0_0001


def migrate(engine: Engine) -> None:
    """Bring the ledger's tables to HEAD; nothing to do when they are there. Safe to call from many processes.

    Raises LedgerError when the tables were made by a newer Lacuna.
    """
    if current_revision(engine) == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()
        try:
            config = Config()
            config.set_main_option("script_location", "ledger:migrations")
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
        except CommandError as error:
            raise LedgerError(
                f"the tables in {engine.url.render_as_string()} are of revision {_revision(connection)}, which "
                "this version does not know: use the newer Lacuna that made them, or another database"
            ) from error
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            connection.commit()


def current_revision(engine: Engine) -> str | None:
    """The revision of the tables; None for an empty database."""
    with engine.connect() as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    try:
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except ProgrammingError:
        return None
    finally:
        connection.rollback()
    return revision
