"""Why workers die: for the controller's log, and for the ledger."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ray import tune

#: Lines of what Ray says about a death.
LINES = 15

log = logging.getLogger(__name__)


class Deaths(tune.Callback):  # type: ignore[misc]
    """Tune keeps what ended a trial to itself; whoever wonders why nothing moves reads it in the log, and the
    supervisor finds it by the trial's name."""

    def __init__(self, lost_trials: dict[str, str]) -> None:
        self._lost_trials = lost_trials

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died or could not be started."""
        # Not its `get_error`: that reads a copy, which is made later.
        file = trial.error_file
        text = Path(file).read_text(errors="replace") if file and Path(file).exists() else "nothing"
        told = "\n".join(text.strip().splitlines()[:LINES])
        log.warning("the worker of trial %s is gone: %s", trial.trial_id, told)
        self._lost_trials[trial.trial_id] = told

    def __deepcopy__(self, memo: dict[int, Any]) -> Deaths:
        return self
