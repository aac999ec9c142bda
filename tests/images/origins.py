"""What builds begin with: a base image, local wheels, and a way to a package index."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.images.daemon import Daemon
from tests.images.machine import CannotRun, last_line

BASE = "python:3.11-slim-bookworm"
LOCAL_BASE = "lacuna-base:local"


def get_base(daemon: Daemon) -> str:
    """The usual base where a registry answers, and otherwise one made of the distribution's packages."""
    try:
        if daemon.docker("pull", "--quiet", BASE, check=False, seconds=60).returncode == 0:
            print(f"base {BASE}: {daemon.size(BASE)}")
            return BASE
    except subprocess.TimeoutExpired:
        pass
    began = time.monotonic()
    tar = daemon.folder / "base.tar"
    unneeded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    done = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"),
            *('--aptopt=Acquire::Check-Valid-Until "false"', "--dpkgopt=force-unsafe-io", *unneeded),
            "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/* $1/var/log/*",
            *("bookworm", str(tar)),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise CannotRun(f"no registry answers, and mmdebstrap failed: {last_line(done.stderr)}")
    daemon.docker("import", str(tar), LOCAL_BASE)
    tar.unlink()
    print(f"base made by mmdebstrap in {time.monotonic() - began:.0f} s: {daemon.size(LOCAL_BASE)}")
    return LOCAL_BASE


def get_wheels(daemon: Daemon) -> str | None:
    """An image of the wheels that this machine's pip is told to look at first; None where there are none."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    links = [
        line.partition("=")[2].strip("'\" ") for line in asked.stdout.splitlines() if "find-links" in line
    ]
    found = {
        wheel.name: wheel
        for link in links
        for part in link.split()
        for wheel in Path(part).glob("torch-*.whl")
    }
    if not found:
        return None
    holder = daemon.folder / "wheels"
    holder.mkdir()
    for wheel in found.values():
        os.symlink(wheel, holder / wheel.name)
    tar = daemon.folder / "wheels.tar"
    subprocess.run(["tar", "-C", str(holder), "--dereference", "-cf", str(tar), "."], check=True)
    daemon.docker("import", str(tar), "lacuna-wheels:local")
    tar.unlink()
    return "lacuna-wheels:local"


def secrets() -> list[str]:
    """This machine's certificates, for mirrors with a certificate of their own; nothing of them is in an image."""
    bundle = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
    given = ["--secret", f"id=ca,src={bundle}"] if Path(bundle).exists() else []
    config = os.environ.get("PIP_CONFIG_FILE")
    return given + (["--secret", f"id=pip,src={config}"] if config and Path(config).is_file() else [])


def reach_index(daemon: Daemon, base: str) -> None:
    """Whether builds reach a package index at all: a machine without a network is no defect of the images."""
    probe = daemon.folder / "probe"
    probe.mkdir()
    (probe / "Dockerfile").write_text(
        f"FROM {base}\n"
        "RUN --mount=type=secret,id=ca --mount=type=secret,id=pip "
        "if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; "
        "if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; "
        "python3 -m venv /v && /v/bin/pip download --quiet --no-deps --dest /w click==8.5.1\n"
    )
    try:
        done = daemon.docker("build", "--network", "host", *secrets(), str(probe), check=False, seconds=180)
    except subprocess.TimeoutExpired:
        raise CannotRun("a container could not be built in three minutes") from None
    if done.returncode:
        raise CannotRun(f"a build runs no command or reaches no package index: {last_line(done.stderr)}")
