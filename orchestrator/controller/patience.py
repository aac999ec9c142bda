"""What is done again and again while the ledger does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError

Returned = TypeVar("Returned")

log = logging.getLogger(__name__)


def patiently(action: Callable[[], Returned]) -> Returned:
    """Do it, again and again while the ledger does not answer: without it there is nothing else to do, and what is to
    be said must not be lost. Raises what `action` raises when that is something else.
    """
    pause = 0.05
    while True:
        try:
            return action()
        except (DBAPIError, TimeoutError) as error:
            # A broken constraint or a wrong statement does not pass; a dead connection, a deadlock, a shutdown may.
            if not _passing(error):
                raise
            log.warning("waiting for the ledger: %s", getattr(error, "orig", error))
            time.sleep(pause)
            pause = min(2.0, pause * 2)


def _passing(error: DBAPIError | TimeoutError) -> bool:
    if isinstance(error, TimeoutError):
        return True  # every connection of the pool waits for an answer
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # not the server's word: the connection broke, or the driver refuses what it was given
        return isinstance(error, OperationalError | InterfaceError)
    # Connection, rollback by conflict, out of resources, operator's shutdown or crash, the server's disk; and a server
    # that gave its place to another one.
    return str(state)[:2] in ("08", "40", "53", "57", "58") or state == "25006"
