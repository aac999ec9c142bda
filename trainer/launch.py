"""Start the processes that train one run together, on this machine; on several machines torchrun does it.

What torchrun sets for them is set here too. It is not used here because it ends with 1 however its processes end, and
kills the others at the first that ends, in the middle of the state that they write.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: Seconds for the others to see by themselves that one of them failed, and to say what they saw.
_GRACE = 10.0


def launch(job: Path, processes: int) -> int:
    """Carry out a job by so many processes of `python -m trainer`. Their exit code, 1 where they ended differently.

    SIGTERM and SIGINT are passed on to all of them. Where one fails, the others are ended.
    """
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    with meeting_place() as place:
        for rank in range(processes):
            # A session of its own: an interrupt from the terminal comes once, through here.
            command = [sys.executable, "-m", "trainer", str(job)]
            environment = {**os.environ, **place, **size, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        try:
            codes = _ended(started)
        finally:
            for process in started:
                process.kill()
                process.wait()
    return codes[0] if len(set(codes)) == 1 and codes[0] >= 0 else 1


def _ended(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Exit codes once all have ended, or once `_GRACE` is over after one failed: -9 for those that had not."""
    failed = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        ended = [code for code in codes if code is not None]
        if len(ended) == len(codes):
            return ended
        if any(code == 1 or code < 0 for code in ended):
            failed = min(failed, time.monotonic())
        if time.monotonic() > failed + _GRACE:
            return [-signal.SIGKILL if code is None else code for code in codes]
        time.sleep(0.1)


@contextmanager
def meeting_place(address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Where the processes of a run find each other, as variables for them, while it is open.

    address: of this machine, as all of them reach it.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # It is kept here, on whatever port is free: a port that is only told may be taken when rank 0 comes to open it.
    # On that address alone: left to itself, the store listens on all of the machine's.
    listening = socket.create_server((address, 0))
    port = listening.getsockname()[1]
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    yield {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
