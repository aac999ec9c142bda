"""Why workers die, in the controller's log."""

from __future__ import annotations

import logging
from typing import Any

from ray import tune

log = logging.getLogger(__name__)

#: Lines of what Ray says about a death.
LINES = 15


class Deaths(tune.Callback):  # type: ignore[misc]
    """Tune keeps what ended a trial to itself; whoever wonders why nothing moves reads it here."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died or could not be started."""
        last = "\n".join((trial.get_error() or "no reason was given").strip().splitlines()[-LINES:])
        log.warning("the worker of trial %s is gone: %s", trial.trial_id, last)
