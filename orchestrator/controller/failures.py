"""What ended an attempt: each kind is answered differently, so each has its name."""

from __future__ import annotations

import socket
import traceback

from ledger.models import AttemptEnd
from trainer.errors import CheckpointError, DataError, is_out_of_memory

#: Lines of the traceback's end that go into the ledger.
TRACEBACK_LINES = 12


def kind_of(error: BaseException) -> AttemptEnd:
    """Which kind of failure an exception of the trainer is. Divergence and stopping are no failures."""
    if isinstance(error, DataError):
        return AttemptEnd.data
    if isinstance(error, CheckpointError):
        return AttemptEnd.checkpoint
    if is_out_of_memory(error):
        return AttemptEnd.memory
    return AttemptEnd.code


def reason_of(error: BaseException, log: list[str]) -> str:
    """Error first, in one line; then where it was raised, the last log lines and the host."""
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    trace = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
    lines = [f"{first} (on {socket.gethostname()})", *trace]
    if is_out_of_memory(error):
        # Not done by itself: another micro-batch adds in another order, so it is another program.
        lines.insert(1, "a smaller training.micro_batch (a divisor of batch_size) needs less memory")
    if log:
        lines += ["last log lines:", *log]
    return "\n".join(lines)
