"""What ended an attempt: each kind is answered differently, so each has its name."""

from __future__ import annotations

import socket
import traceback

from ledger.models import AttemptEnd
from trainer.errors import CheckpointError, DataError, is_out_of_memory

#: Lines of the traceback's end that go into the ledger.
TRACEBACK_LINES = 12

#: What Ray's OutOfMemoryError says, which takes the place of a worker that its memory monitor killed.
_MEMORY_MONITOR = "killed due to the node running low on memory"


class FailedElsewhere(Exception):
    """What another process raised that trained the segment too: its kind and its reason, as it told them."""

    def __init__(self, kind: AttemptEnd, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


def kind_of(error: BaseException) -> AttemptEnd:
    """Which kind of failure an exception of the trainer is. Divergence and stopping are no failures."""
    if isinstance(error, FailedElsewhere):
        return error.kind
    if isinstance(error, DataError):
        return AttemptEnd.data
    if isinstance(error, CheckpointError):
        return AttemptEnd.checkpoint
    if is_out_of_memory(error):
        return AttemptEnd.memory
    return AttemptEnd.code


def kind_of_death(told: str) -> AttemptEnd:
    """Which kind of death Ray tells of. Its memory monitor says what it did; for the kernel's see `tracking.oom`."""
    return AttemptEnd.memory if _MEMORY_MONITOR in told else AttemptEnd.preempted


def reason_of(error: BaseException, log: list[str]) -> str:
    """Error first, in one line; then where it was raised, the last log lines and the host."""
    if isinstance(error, FailedElsewhere):
        return error.reason
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    trace = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
    lines = [f"{first} (on {socket.gethostname()})", *trace]
    if is_out_of_memory(error):
        lines.insert(
            1,
            "fewer examples at a time did not help, or were not to be had: a smaller model, shorter sequences, fewer "
            "runs at a time (execution.max_concurrent) or a pool with more memory would",
        )
    if log:
        lines += ["last log lines:", *log]
    return "\n".join(lines)
