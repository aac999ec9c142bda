"""What training asks of its machine, as metrics beside the loss: `system/…`, the prefix that MLflow's pages group."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two looks. A look takes a tenth of a millisecond.
PERIOD = 10.0


class Machine:
    """Samples this process and the device that it sees, at most once in PERIOD."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        import psutil

        self._clock = clock
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first answer is of no period
        self._due = clock() + PERIOD

    def sample(self) -> dict[str, float]:
        """Name → value; empty where it is too early."""
        now = self._clock()
        if now < self._due:
            return {}
        self._due = now + PERIOD
        with self._process.oneshot():
            found = {
                "system/cpu_utilization_percentage": self._process.cpu_percent(),
                "system/process_memory_megabytes": self._process.memory_info().rss / 1e6,
            }
        return found | _gpu()


def _gpu() -> dict[str, float]:
    """Memory of the CUDA device that this process trains on, as torch counts it; nothing is imported for it."""
    import sys

    torch = sys.modules.get("torch")
    # Not whether there is one: to ask that early would fix which GPUs this process sees.
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"system/gpu_memory_usage_megabytes": torch.cuda.memory_allocated() / 1e6}
