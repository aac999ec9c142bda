"""What is done again and again while the ledger does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

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
        except DBAPIError as error:
            # A broken constraint or a wrong statement does not pass; a dead connection, a deadlock, a shutdown may.
            if not _passing(error):
                raise
            log.warning("waiting for the ledger: %s", error.orig)
            time.sleep(pause)
            pause = min(2.0, pause * 2)


def _passing(error: DBAPIError) -> bool:
    state = str(getattr(error.orig, "sqlstate", None) or "08")
    # Connection, rollback by conflict, out of resources, operator's shutdown or crash.
    return state[:2] in ("08", "40", "53", "57")
