"""What every process of Ray that trains begins with: a log of its own, and one thread."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from orchestrator.controller.orders import Assignment


def set_up(assignment: Assignment) -> None:
    """Log to a file of the assignment's folder, and make torch use one thread."""
    _log_to(assignment)
    _one_thread()


def _one_thread() -> None:
    """Two one-thread processes train more than one two-thread process; and bits must not depend on the number."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    import torch

    torch.set_num_threads(1)


def log_file(assignment: Assignment) -> Path:
    """Where this process logs to."""
    return assignment.logs / f"worker-{socket.gethostname()}-{os.getpid()}.log"


def _log_to(assignment: Assignment) -> None:
    assignment.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file(assignment))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
