"""Who asks in service_load.py: users for Locust, which that script starts.

    locust -f benchmarks/service_users.py --host http://127.0.0.1:8321 -u 200 -r 200 -t 20s --headless Asker

Every `Asker` asks for one law a second, on a connection of its own, whether or not others have their answers: as many
users as questions a second, so that a slow answer holds none of the other questions up.
"""

from __future__ import annotations

import itertools
import time

import gevent
from locust import FastHttpUser, constant, task

SWEEPS = 50
numbers = itertools.count()
turns = itertools.count()


class Asker(FastHttpUser):
    """Asks for one law after the other, once a second."""

    def on_start(self) -> None:
        """Locust starts all at once: their questions are spread over the second."""
        users = self.environment.parsed_options.num_users
        gevent.sleep(next(numbers) % users / users)
        self.due = time.monotonic()

    def wait_time(self) -> float:
        """Until this user's next beat. Locust's own pacing counts the first wait as work, and all would ask at once."""
        self.due += 1
        return max(0.0, self.due - time.monotonic())

    @task
    def law(self) -> None:
        self.client.get(f"/v1/sweeps/sweep-{next(turns) % SWEEPS}/law", name="law")


class Lister(FastHttpUser):
    """Asks for a sweep's 1,000 runs, and again as soon as they are there."""

    wait_time = constant(0)

    @task
    def runs(self) -> None:
        self.client.get(f"/v1/sweeps/sweep-{next(turns) % SWEEPS}/runs?limit=1000", name="runs")
