"""The controller: carries out what the ledger wants with Ray Tune, and can be killed at any moment."""

from orchestrator.controller.lead import Outcome, run

__all__ = ["Outcome", "run"]
