"""Ray clusters of several nodes on this machine: a `ray start` for each, with token authentication."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from tests.controller.watching import until

#: Seconds that a node may need to come up on a loaded machine.
START_SECONDS = 180.0

#: What `ray start` prints once its node is up.
STARTED = "Ray runtime started."


class Cluster:
    """A head without CPUs, and nodes that join it. Each has a loopback address of its own, as machines do."""

    def __init__(self, *, dashboard: bool = False) -> None:
        """`dashboard`: with the job API, at `self.dashboard`; needs ray[default]."""
        self._folder = Path(tempfile.mkdtemp(prefix="lrc-"))
        port, jobs = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"127.0.0.1:{jobs}"
        self._head = [
            *("--head", f"--port={port}", f"--temp-dir={self._folder}/r"),
            *(f"--include-dashboard={str(dashboard).lower()}", f"--dashboard-port={jobs}"),
        ]
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(int(START_SECONDS)),
            "PYTHONPATH": os.getcwd(),
        }
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, str] = {}

    def begin(self) -> None:
        """Start the head."""
        self._start("head", self._head, 1, 0, {}, {})

    def add(
        self,
        name: str,
        *,
        cores: int,
        resources: Mapping[str, float],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a node that joins. `environment`: beside that of all nodes; its workers inherit it."""
        how = [f"--address={self.address}"]
        self._start(name, how, len(self._addresses) + 1, cores, resources, environment or {})

    def kill(self, name: str) -> None:
        """kill -9 of all that the node runs, at once."""
        process = self._nodes.pop(name)
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)
        process.wait()

    def pids(self) -> dict[str, int]:
        """Name of each living node → the process above all of its."""
        return {name: process.pid for name, process in self._nodes.items()}

    def node_of(self, process: int) -> str | None:
        """Name of the node whose process it is; None where it is gone, or no node's."""
        try:
            above = {parent.pid for parent in psutil.Process(process).parents()}
        except psutil.NoSuchProcess:
            return None
        return next((name for name, pid in self.pids().items() if pid in above), None)

    def id_of(self, name: str) -> str | None:
        """Ray's id of a node, once it has joined."""
        query = (
            "import ray; ray.init(log_to_driver=False, logging_level='ERROR')\n"
            "for node in ray.nodes():\n"
            "    if node['Alive']: print(node['NodeID'], *node['Resources'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", query],
            env={**self.environment, "RAY_ADDRESS": self.address},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        mark = f"node:{self._addresses[name]}"
        return next((line.split()[0] for line in done.stdout.splitlines() if mark in line.split()), None)

    def drain(self, name: str) -> None:
        """Tell Ray that the node will go away, as a preemption notice does, and take it away."""
        node = self.id_of(name)
        assert node is not None, self.tells()
        notice = [
            "drain-node",
            "--address",
            self.address,
            "--node-id",
            node,
            "--deadline-remaining-seconds",
            "1",
        ]
        notice += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        self.ray(*notice, check=True)
        self.kill(name)

    def ray(self, *arguments: str, check: bool = False) -> str:
        """What `ray …` prints. With `check` it must succeed."""
        done = subprocess.run(
            [*RAY, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def close(self) -> None:
        """Kill what is left."""
        for name in list(self._nodes):
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def tells(self) -> str:
        """What the nodes printed."""
        return "\n".join(
            f"-- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self._folder.glob("*.log"))
        )

    def _start(
        self,
        name: str,
        how: list[str],
        number: int,
        cores: int,
        resources: Mapping[str, float],
        environment: Mapping[str, str],
    ) -> None:
        self._addresses[name] = f"127.0.0.{number}"
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            self._nodes[name] = subprocess.Popen(
                [
                    *(*RAY, "start", *how, "--block", f"--node-ip-address=127.0.0.{number}"),
                    *(f"--num-cpus={cores}", "--num-gpus=0", "--object-store-memory=80000000"),
                    *("--disable-usage-stats", f"--resources={json.dumps(dict(resources))}"),
                    # The usual one belongs to whichever Ray of this machine came first, and jobs come in by it.
                    "--dashboard-agent-listen-port=0",
                ],
                env={**self.environment, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        # Two that start at once in one session's folder may take the same names for their sockets.
        until(
            lambda: STARTED in log.read_text() or self._nodes[name].poll() is not None,
            START_SECONDS,
            self.tells,
        )
        assert self._nodes[name].poll() is None, self.tells()


RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster(*, dashboard: bool = False) -> Iterator[Cluster]:
    """A head, for as long as the block runs. `dashboard`: with the job API."""
    made = Cluster(dashboard=dashboard)
    try:
        made.begin()
        yield made
    finally:
        made.close()
