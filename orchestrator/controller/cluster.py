"""Ray: a private one on this machine, or a cluster that is there already (RAY_ADDRESS)."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ledger.settings import Settings
from orchestrator.controller.own_folder import own_folder

#: Ray puts Unix sockets some 60 characters below its directory, which is one below this; the whole may have 107.
LONGEST_DIRECTORY = 40

#: Bytes for Ray's object store, the least it takes: segments go through files, not through Ray.
OBJECT_STORE = 80 * 1024 * 1024

#: How often it is tried to start a private Ray.
STARTS = 3

#: What Ray reads from the environment, once, when it is imported or started.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer one prints tables even at verbosity 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a spec mean what they say
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours stops the workers at a checkpoint
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is asked after a restart, not Tune's snapshot
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
}

log = logging.getLogger(__name__)


class RayError(RuntimeError):
    """Ray that does not start here, or cannot be reached."""


@contextmanager
def ray_cluster(
    settings: Settings, cores: int, resources: Mapping[str, float] | None = None
) -> Iterator[None]:
    """Ray while the block runs. A private one has `cores` CPUs and these custom resources and leaves nothing behind;
    its processes die with this one, however it ends (so the thread that enters must live as long). Raises RayError."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:
        private_token()
    import ray
    from ray._raylet import Config  # type: ignore[attr-defined]  # compiled: it has no stubs

    if ray.is_initialized():
        # The caller's, to keep for more than one controller after the other.
        yield
        return
    # Whoever imported ray.tune before froze what it read from the environment then: without a token, and the server
    # that is started now refuses this very process.
    Config.initialize("")

    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            with _signals_kept():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise RayError(f"no Ray answers at RAY_ADDRESS={address}: {error}") from error
        try:
            yield
        finally:
            with _signals_kept():
                ray.shutdown()
        return
    # A controller that was overtaken may still be ending its own.
    with own_folder(ray_directory(settings)) as directory:
        _start(
            directory,
            num_cpus=cores,
            resources=dict(resources or {}),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",  # whoever reaches its ports can run code
        )
        try:
            yield
        finally:
            with _signals_kept():
                ray.shutdown()


def _start(directory: Path, **options: Any) -> None:
    """Start a private Ray with its session below `directory`. Raises RayError.

    Ray gives its own processes 30 s to start, and has no setting for it: on a busy machine that is too short.
    """
    import ray

    for attempt in range(1, STARTS + 1):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        before = set(psutil.Process().children(recursive=True))
        try:
            with _signals_kept():
                ray.init(address="local", _temp_dir=str(directory), **options)
            return
        except Exception as error:
            log.warning("Ray does not start (attempt %d of %d): %s", attempt, STARTS, error)
            reason = error
        # What did start would stay as long as this process does.
        ray.shutdown()
        started = set(psutil.Process().children(recursive=True)) - before
        ours = [process for process in started if str(directory) in " ".join(_command_line(process))]
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=10)
    raise RayError(
        f"Ray did not start on this machine, {STARTS} times in a row: {reason} (logs: {directory}). The load average "
        f"is {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores: with less to do beside it, the same command goes on"
    )


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray answers SIGTERM by aborting, from its start on, and leaves the signal at its default after its end: whoever
    had a handler has it again after the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def private_token() -> None:
    """A token for a private Ray, known to this process and its children. Ray would write one to the user's home."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def ray_directory(settings: Settings) -> Path:
    """Where private Rays keep their sessions: below the home, or a short path of its own where that is too long."""
    directory = settings.home / "ray"
    if len(os.fsencode(directory)) <= LONGEST_DIRECTORY:
        return directory
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"lacuna-ray-{digest}"
