"""A private Ray: who may reach it, and where it keeps its session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ledger.settings import Settings
from orchestrator.controller.cluster import LONGEST_DIRECTORY, ray_directory

STARTED_LATE = """
import os, sys
import ray.tune  # as a notebook has it before it asks for a sweep: the environment is read here, and has no token
from pathlib import Path
from ledger.settings import Settings
from orchestrator.controller.cluster import ray_cluster
with ray_cluster(Settings(home=Path(sys.argv[1])), cores=1):
    print(os.environ["RAY_AUTH_MODE"], ray.get(ray.remote(lambda: 6 * 7).remote()))
"""

STARTED_SLOWLY = """
import sys, types
from pathlib import Path
import psutil
from ledger.settings import Settings
from orchestrator.controller import cluster

def on_a_busy_machine(services, node, times):
    found, clock, real = services.get_node, node.time, {"left": times}
    def get_node(*given):
        if not real["left"]:
            return found(*given)
        raise RuntimeError("not there yet")
    def monotonic():
        if real["left"]:
            real["now"] = real.get("now", 0) + 31
            if real["now"] % 62 == 0:  # the second look at the clock of a start
                real["left"] -= 1
            return real["now"]
        return clock.monotonic()
    services.get_node = get_node
    node.time = types.SimpleNamespace(**{**vars(clock), "monotonic": monotonic})

import ray
from ray._private import node, services
cluster.private_token()
on_a_busy_machine(services, node, int(sys.argv[2]))
try:
    with cluster.ray_cluster(Settings(home=Path(sys.argv[1])), cores=1):
        nodes = [each for each in psutil.Process().children(recursive=True) if each.name() == "raylet"]
        print(ray.get(ray.remote(lambda: 6 * 7).remote()), len(nodes))
except cluster.RayError as error:
    print(error)
"""


def test_a_private_ray_has_its_token_even_where_ray_was_imported_before(home: Path) -> None:
    done = execute(STARTED_LATE, str(home))
    assert done.stdout.split() == ["token", "42"], done.stderr[-2000:]


def test_a_ray_that_a_busy_machine_starts_too_slowly_is_started_again(home: Path) -> None:
    """Its own limit, 30 s, cannot be set: the clock that it reads runs fast here."""
    done = execute(STARTED_SLOWLY, str(home), "1")
    assert done.stdout.split() == ["42", "1"], done.stderr[-2000:]
    over = execute(STARTED_SLOWLY.replace("cluster.private_token()", "cluster.STARTS = 1"), str(home), "1")
    assert over.stdout.startswith(
        "Ray did not start on this machine, 1 times in a row: The current node timed out"
    )


def execute(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own, which no Ray of this one reaches."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


def test_a_home_too_deep_for_unix_sockets_gets_a_short_directory_of_its_own() -> None:
    near, far = Path("/srv/lacuna"), Path("/srv") / ("deep" * 20)
    assert ray_directory(Settings(home=near)) == near / "ray"
    assert len(str(ray_directory(Settings(home=far)))) <= LONGEST_DIRECTORY
    assert ray_directory(Settings(home=far)) != ray_directory(Settings(home=far / "other"))
