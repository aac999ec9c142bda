"""The mirror in a process of its own, beside a controller: MLflow's 200 MB and its work stay off the controller.

The process runs until its standard input ends, which happens when its controller ends, however it ends. Then it brings
MLflow up to date once more and goes. What troubles it goes to a pipe of its own, one JSON object a line: standard
output is MLflow's, whose client prints where runs are to be seen.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger.engine import connect as connect_ledger
from ledger.engine import ledger_url
from ledger.errors import LedgerError
from ledger.settings import Settings
from orchestrator.tracking import store
from orchestrator.tracking.errors import TrackingError

#: Seconds between two looks at the ledger.
PERIOD_SECONDS = 3.0

#: Share of a core that the mirror may take while sweeps run: on a machine that trains on all its cores, plots of a law
#: that a newer one replaces within seconds cost steps.
DUTY = 0.1

#: Longest pause, in seconds, between two looks, or two attempts to reach an MLflow that does not answer.
LONGEST_PAUSE = 60.0

#: Seconds after which a mirror that died is replaced.
AGAIN_SECONDS = 10.0

#: Seconds that a controller waits at its end for a mirror that has much to write.
FAREWELL_SECONDS = 120.0

#: Advisory lock on the ledger that the one mirror holds.
MIRROR_LOCK = 0x1AC0_0004

log = logging.getLogger("orchestrator.tracking")


@contextmanager
def mirroring(settings: Settings, on_trouble: Callable[[str | None], None]) -> Iterator[None]:
    """MLflow follows the ledger while the block runs, and is up to date after it, if it can be reached. A mirror that
    dies before its time is replaced.

    `on_trouble` is called with one line when MLflow does not answer or the mirror died, and None when all is well, from
    another thread; at the end also where the mirror had to be stopped before it was done.
    """
    keeper = _Keeper(settings, on_trouble)
    try:
        yield
    finally:
        keeper.end()


class _Keeper:
    """Keeps a mirror's process alive, and listens to it, in a thread."""

    def __init__(self, settings: Settings, on_trouble: Callable[[str | None], None]) -> None:
        self._settings = settings
        self._on_trouble = on_trouble
        self._url = ledger_url(settings)
        self._ending = threading.Event()
        self._changing = threading.Lock()
        self._process, self._troubles = self._start()
        self._thread = threading.Thread(target=self._listen, name="mirror", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the process bring MLflow up to date once more, and wait for it."""
        with self._changing:
            self._ending.set()
        late = False
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            late = True
            self._process.terminate()
            self._process.wait()
        self._thread.join()
        if late:
            self._on_trouble(
                f"MLflow was not up to date after {FAREWELL_SECONDS:.0f} s; the next mirror goes on from there"
            )

    def _listen(self) -> None:
        while True:
            with self._troubles:
                for line in self._troubles:
                    self._on_trouble(json.loads(line)["trouble"])
            code = self._process.wait()
            if self._ending.is_set() and code in (0, -signal.SIGTERM):
                return
            self._on_trouble(
                f"the mirror that brings MLflow up to date died ({code}); the next one goes on from there "
                f"(log: {self._settings.logs / 'mirror.log'})"
            )
            self._ending.wait(AGAIN_SECONDS)
            with self._changing:
                if self._ending.is_set():
                    return
                self._process, self._troubles = self._start()

    def _start(self) -> tuple[subprocess.Popen[str], TextIO]:
        """The process, and what it tells."""
        settings = self._settings
        environment = {
            **os.environ,
            **store.CLIENT_ENVIRONMENT,
            "MPLCONFIGDIR": str(
                settings.home / "cache" / "matplotlib"
            ),  # its font cache, else in the user's home
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        hearing, telling = os.pipe()
        given = {
            "home": str(settings.home),
            "database_url": self._url,
            "tracking_uri": settings.tracking_uri,
            "telling": telling,
        }
        settings.logs.mkdir(parents=True, exist_ok=True)
        with open(settings.logs / "mirror.log", "ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.tracking.process"],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=[telling],
                env=environment,
                text=True,
                # Ctrl-C is for the controller, which then ends our input.
                start_new_session=True,
            )
        os.close(telling)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # dead already: it is replaced
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
        return process, os.fdopen(hearing)


def catch_up(settings: Settings, engine: Engine) -> str | None:
    """Bring MLflow up to date once, where it lacks something; what troubled it, in one line."""
    from orchestrator.tracking.lacking import behind

    with Session(engine) as session:
        if not behind(session):
            return None
    troubles: list[str | None] = [None]
    with mirroring(settings, troubles.append):
        pass
    return troubles[-1]


def main() -> None:
    """The process: settings on the first line of standard input, then nothing until its end."""
    os.nice(19)  # below Ray's workers, which run at 15
    given = json.loads(sys.stdin.readline())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(
        home=Path(given["home"]), database_url=given["database_url"], tracking_uri=given["tracking_uri"]
    )
    ending = threading.Event()
    threading.Thread(target=_await_end, args=[ending], daemon=True).start()
    with os.fdopen(given["telling"], "w") as telling:
        _follow(settings, ending, telling)


def _await_end(ending: threading.Event) -> None:
    while sys.stdin.readline():
        pass
    ending.set()


def _follow(settings: Settings, ending: threading.Event, telling: TextIO) -> None:
    """Sync until the end, and once more after it. Troubles are told once each, and that there is none."""
    told: str | None = ""
    pause = PERIOD_SECONDS
    engine: Engine | None = None
    holder: Connection | None = None
    mirror = None
    while True:
        last = ending.is_set()
        try:
            if engine is None:
                engine = connect_ledger(settings.database_url or "", pool_size=2)
            if holder is None:
                holder = _only_mirror(engine, ending)
                if holder is None:
                    return
            holder.scalar(text("SELECT true"))  # with its connection the lock would be gone
            if mirror is None:
                from orchestrator.tracking.mlflow_mirror import Mirror

                root = (
                    None
                    if store.artifact_location(settings, "") is None
                    else store.artifacts(settings).as_uri()
                )
                mirror = Mirror(engine, store.connect(settings), root)
            began, spent = time.monotonic(), time.process_time()
            written = mirror.sync()
            if written:
                log.info("%d points, ends and fits in %.1f s", written, time.monotonic() - began)
            spent = time.process_time() - spent
            trouble, pause = None, min(LONGEST_PAUSE, max(PERIOD_SECONDS, spent * (1 - DUTY) / DUTY))
        except (TrackingError, LedgerError) as error:
            trouble, mirror = str(error), None
        except DBAPIError as error:
            trouble, mirror = f"a database does not answer: {str(error.orig).splitlines()[0]}", None
            if holder is not None:
                holder.invalidate()
                holder.close()
                holder = None
        except Exception as error:
            # Whatever MLflow raises for a store that went away; the next round makes a new client.
            log.exception("MLflow")
            trouble, mirror = str(store.unreachable(store.tracking_uri(settings), error)), None
        if trouble is not None:
            log.warning("%s", trouble)
            pause = min(LONGEST_PAUSE, pause * 2)
        if trouble != told:
            print(json.dumps({"trouble": trouble}), file=telling, flush=True)
            told = trouble
        if last:
            return
        ending.wait(pause)


def _only_mirror(engine: Engine, ending: threading.Event) -> Connection | None:
    """Wait until no other mirror follows this ledger; the connection that holds the lock. None: the end came first."""
    holder = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    while not holder.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIRROR_LOCK}):
        if ending.wait(PERIOD_SECONDS):
            return None
    return holder


if __name__ == "__main__":
    main()
