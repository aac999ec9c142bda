"""What building and running images takes of a machine, and what is said where one cannot give it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FREE_GIB = 12


class CannotRun(Exception):
    """This machine cannot run containers; says why."""


def prepare() -> None:
    """Install the distribution's Docker and mmdebstrap where they are missing. Raises CannotRun."""
    if os.geteuid() != 0:
        raise CannotRun("this is not root: a Docker daemon needs it")
    free = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    if free < FREE_GIB:
        raise CannotRun(f"{tempfile.gettempdir()} has {free:.0f} GiB free, and building takes {FREE_GIB}")
    missing = [
        package
        for package, path in (("docker.io", "/usr/sbin/dockerd"), ("mmdebstrap", "/usr/bin/mmdebstrap"))
        if not Path(path).exists()
    ]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise CannotRun(f"there is no apt-get to install {' and '.join(missing)} with")
    # RUNLEVEL: the package's own daemon is not started.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        # Somebody else's apt is waited for.
        done = subprocess.run(
            ["apt-get", "-o", "DPkg::Lock::Timeout=120", *command],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise CannotRun(f"apt-get {command[0]} failed: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """The last line with something on it, for messages."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it said nothing"
