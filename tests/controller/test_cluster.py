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


def test_a_private_ray_has_its_token_even_where_ray_was_imported_before(home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", STARTED_LATE, str(home)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["token", "42"], done.stderr[-2000:]


def test_a_home_too_deep_for_unix_sockets_gets_a_short_directory_of_its_own() -> None:
    near, far = Path("/srv/lacuna"), Path("/srv") / ("deep" * 20)
    assert ray_directory(Settings(home=near)) == near / "ray"
    assert len(str(ray_directory(Settings(home=far)))) <= LONGEST_DIRECTORY
    assert ray_directory(Settings(home=far)) != ray_directory(Settings(home=far / "other"))
