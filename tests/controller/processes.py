"""Controllers in processes of their own, to be watched and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from ledger.settings import Settings
from tests.controller.watching import PATIENCE

LACUNA = [sys.executable, "-c", "from orchestrator.command.main import main; main()"]
RUN = [sys.executable, "-m", "tests.controller.run_controller"]

#: Its sitecustomize.py kills where a script says so.
HOOK = Path(__file__).parent.parent / "chaos" / "hook"


class ControllerProcess:
    """`tests.controller.run_controller` for one sweep, or `lacuna controller` for all of them, in a session of its
    own, as from a terminal."""

    def __init__(
        self,
        settings: Settings,
        sweep: str | None = "tiny",
        *,
        chaos: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`chaos`: the folder with a script of kills (see tests/chaos). `environment`: beside this process's own."""
        self._home = settings.home
        self._errors = settings.home / f"controller-{len(list(settings.home.glob('controller-*.err')))}.err"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*LACUNA, "controller"]
                if sweep is None
                else [sys.executable, "-m", "tests.controller.run_controller", sweep],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env={
                    **os.environ,
                    **(environment or {}),
                    "PYTHONPATH": os.pathsep.join([*([str(HOOK)] if chaos else []), os.getcwd()]),
                    "LACUNA_CHAOS": str(chaos or ""),
                    "LACUNA_HOME": str(settings.home),
                    "LACUNA_DATABASE_URL": settings.database_url or "",
                    "LACUNA_TRACKING_URI": f"sqlite:///{settings.home}/mlflow.db",
                },
            )
        self.pid = self.process.pid
        if chaos:
            (chaos / "controller.pid").write_text(str(self.pid))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def says(self, seconds: float = PATIENCE) -> str:
        """What it prints by the time it ends: "ok", "interrupted" or "failed". Fails with its errors otherwise."""
        try:
            said = self.process.communicate(timeout=seconds)[0].strip()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the controller did not end within {seconds:g} s\n{self.tells()}") from None
        if not said:
            raise AssertionError(f"the controller ended with {self.process.returncode}\n{self.tells()}")
        return said

    def interrupt(self) -> None:
        """As Ctrl-C does: SIGINT to the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of it and all its descendants, at once."""
        if not self.alive:
            return
        tree = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for member in tree:
            if member.is_running():
                member.send_signal(signal.SIGKILL)
        self.process.wait()

    def tells(self) -> str:
        """What it wrote to standard error, and the end of its log."""
        log: Path = self._home / "logs" / "controller.log"
        ends = log.read_text(errors="replace").splitlines()[-40:] if log.exists() else ["no log"]
        return "\n".join(["-- standard error", self._errors.read_text()[-4000:], "-- controller.log", *ends])
