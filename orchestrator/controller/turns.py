"""Which workers end their walk before there is nothing left for them: another number of their devices is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import FIFOScheduler

if TYPE_CHECKING:
    from orchestrator.controller.searcher import LedgerSearcher


class Turns(FIFOScheduler):  # type: ignore[misc]
    """Tune asks it whenever a worker reports, which is between two packs: nothing is interrupted."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the worker goes on."""
        return str(self.STOP if self._searcher.makes_room(trial.trial_id) else self.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        # As the searcher: nobody restores from Tune's snapshot.
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Turns:
        return self
