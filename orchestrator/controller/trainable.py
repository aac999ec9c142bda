"""A Ray Tune trial: one worker's walk down the forest, a step for each pack of segments, or for several short ones.

The searcher names the segment to begin with. When it is done, the worker goes on with whatever is most urgent then,
most often a child of what it just finished, without a round trip through Tune; the trial ends when nothing is ready.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from ledger.engine import connect
from ledger.models import AttemptState
from ledger.sweeps import Place
from orchestrator import leaving
from orchestrator.controller.gang import Gang
from orchestrator.controller.orders import Assignment
from orchestrator.controller.patience import patiently
from orchestrator.controller.process import set_up
from orchestrator.controller.worker import TeamOver, Worker
from orchestrator.tracking.journal import replay

#: Seconds after which a walk reports to Tune, so that siblings of what it finished start on other workers.
REPORT_SECONDS = 0.5

#: Steps of a trial before it makes room for a new one, so that Tune's own records of it stay small.
WALK_LENGTH = 200


class SegmentTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains segments in a process of its own, on one thread, kept and reused from trial to trial; where its placement
    group has several bundles, together with a process in each."""

    def setup(self, config: dict[str, Any], assignment: Assignment) -> None:
        """Once a process: connect to the ledger and make torch use one thread."""
        set_up(assignment)
        self._assignment = assignment
        self._engine = connect(assignment.ledger_url, pool_size=2)
        # What workers that were killed here had still to tell.
        patiently(lambda: replay(self._engine, assignment.journals))
        group = get_current_placement_group()
        self._gang = Gang(group, assignment) if group is not None and group.bundle_count > 1 else None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """A new trial in the same process."""
        name = f"{socket.gethostname()}:{os.getpid()}/{self.trial_id}"
        self._worker = Worker(
            self._engine,
            self._assignment,
            name,
            Place(new_config["pool"], new_config["device"], new_config["devices"]),
            workers=new_config["workers"],
            team=self._gang,
        )
        self._next: str | None = new_config["segment"]
        self._steps = 0
        return True

    def step(self) -> dict[str, Any]:
        """Carry out a pack of segments, or as many as end within REPORT_SECONDS: a report costs Tune some 10 ms. `done`
        when nothing was ready, or when the worker was told to stop."""
        # Ray ends this process with its machine, and Tune begins the trial anew elsewhere.
        leaving.wait_for_end(self._assignment.home)
        began = time.monotonic()
        trained, over = 0, False
        while not over and time.monotonic() - began < REPORT_SECONDS:
            try:
                ended = self._worker.work(self._next)
            except TeamOver as reason:
                if reason.stuck:
                    os._exit(1)
                raise
            self._next = None
            over = not ended or any(each.state in (AttemptState.stopped, AttemptState.lost) for each in ended)
            trained += sum(each.steps for each in ended)
        self._steps += 1
        return {"done": over or self._steps >= WALK_LENGTH, "trained_steps": trained}

    def cleanup(self) -> None:
        """Tune lets the process go."""
        if self._gang is not None:
            self._gang.close()
        self._engine.dispose()
