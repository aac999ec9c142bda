"""What the ledger raises."""

from __future__ import annotations


class LedgerError(RuntimeError):
    """The ledger cannot be used: says which database, and what to check. Its message is one line."""


class Fenced(LedgerError):
    """The attempt no longer holds its segment: another may hold it now, and this one's writes are refused."""


class NoSuchSweep(LedgerError):
    """The ledger has no sweep of that name; the message names some that it has."""


class SweepExists(LedgerError):
    """A sweep of that name stands in the ledger already."""
