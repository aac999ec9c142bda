"""A Docker daemon of the check's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.images.machine import CannotRun, last_line

START_SECONDS = 60


class Daemon:
    """A Docker daemon with everything of it in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises CannotRun."""
        log = self.folder / "dockerd.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    # However this process ends, its daemon ends too, and the containers with it.
                    *("setpriv", "--pdeathsig", "TERM"),
                    *("/usr/sbin/dockerd", "--host", self._socket, "--pidfile", f"{self.folder}/docker.pid"),
                    *("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"),
                    # The usual bridge belongs to the machine's own Docker, where there is one; its firewall stays as
                    # it is, since builds use the machine's network and containers only reach each other.
                    *("--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
                ],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.docker("info", check=False).returncode == 0:
                return
            time.sleep(0.5)
        raise CannotRun(f"no Docker daemon starts here: {last_line(log.read_text(errors='replace'))}")

    def docker(
        self, *arguments: str, check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Debian's own client, which fits its daemon. Raises AssertionError with `check` where it fails."""
        done = subprocess.run(
            ["/usr/bin/docker", "--host", self._socket, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(self.folder)},
        )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}")
        return done

    def size(self, image: str) -> str:
        """An image's size, as people write it."""
        size = int(self.docker("image", "inspect", "--format", "{{.Size}}", image).stdout)
        return f"{size / 2**20:.0f} MiB"

    def stop(self) -> None:
        """Containers first, then the daemon by its own number; nothing where it has ended."""
        if self._process is None:
            return
        try:
            listed = self.docker("ps", "-aq", check=False).stdout.split()
            if listed:
                self.docker("rm", "--force", "--volumes", *listed, check=False)
            self.docker("network", "prune", "--force", check=False)
        except subprocess.SubprocessError as trouble:
            print(f"while ending: {trouble}", file=sys.stderr)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
