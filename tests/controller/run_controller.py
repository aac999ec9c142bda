"""A controller in a process of its own, for tests that kill it: `run_controller.py SWEEP`."""

from __future__ import annotations

import sys

from ledger.settings import Settings
from orchestrator import controller

if __name__ == "__main__":
    outcome = controller.run(Settings.from_environment(), [sys.argv[1]])
    print("ok" if outcome.ok else "interrupted" if outcome.interrupted else "failed")
