from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from setuptools import find_packages
from sqlalchemy import event, text

from ledger import embedded, migrations
from ledger.engine import connect, open_ledger
from ledger.errors import LedgerError
from ledger.migrations import HEAD, current_revision, migrate
from ledger.models import Base
from ledger.settings import Settings

#: Opens the ledger of a home, says so, and holds it until its input ends.
HOLDER = """
import sys
from pathlib import Path
from ledger.engine import open_ledger
from ledger.settings import Settings
engine = open_ledger(Settings(home=Path(sys.argv[1])))
print("open", flush=True)
sys.stdin.read()
"""


def holder(home: Path) -> subprocess.Popen[str]:
    """A process that uses the embedded server of that home, and has it open when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def server(home: Path) -> psutil.Process | None:
    """The server process of that home, if one runs."""
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    if not pid_file.exists():
        return None
    try:
        return psutil.Process(int(pid_file.read_text().split("\n")[0]))
    except psutil.NoSuchProcess:
        return None


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_an_empty_database_is_migrated_and_at_head_nothing_happens(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    assert current_revision(engine) is None
    migrate(engine)
    assert current_revision(engine) == HEAD
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *details: asked.append(details[2]))
    migrate(engine)
    assert asked == ["SELECT version_num FROM alembic_version"]
    engine.dispose()


def test_the_models_are_what_the_migrations_make(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_tables_of_a_newer_version_are_refused_by_name(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
    with pytest.raises(LedgerError, match="9999"):
        migrate(engine)
    engine.dispose()


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://me:secret@127.0.0.1:1/lacuna"
    with pytest.raises(LedgerError) as caught:
        open_ledger(Settings(home=tmp_path, database_url=url))
    message = str(caught.value)
    assert "me:***@127.0.0.1:1/lacuna" in message
    assert "LACUNA_DATABASE_URL" in message
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize("url", ["sqlite:///ledger.db", "not a url"])
def test_what_is_no_postgres_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(LedgerError, match="postgresql://user:password@host"):
        open_ledger(Settings(home=tmp_path, database_url=url))


def test_the_server_lives_as_long_as_any_of_its_processes(home: Path) -> None:
    first, second = holder(home), holder(home)
    leave(first)
    assert server(home) is not None
    leave(second)
    assert server(home) is None


def test_after_kill_9_of_everything_the_next_start_works_and_nothing_is_lost(home: Path) -> None:
    process = holder(home)
    engine = open_ledger(Settings(home=home))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept AS SELECT 1 AS one"))
    engine.dispose()
    running = server(home)
    assert running is not None
    for child in [running, *running.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # some go by themselves, faster than we come
            child.send_signal(signal.SIGKILL)
    process.kill()
    process.communicate()
    # A number that meanwhile belongs to another process must not be believed.
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    engine = open_ledger(Settings(home=home))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT one FROM kept")) == 1
    engine.dispose()
    embedded.stop(home / "postgres")


def test_a_home_with_a_long_path_works_and_no_directory_above_it_is_opened_to_others() -> None:
    with tempfile.TemporaryDirectory(prefix="lacuna-") as root:
        os.chmod(root, 0o700)
        home = Path(root) / ("long" * 25)
        engine = open_ledger(Settings(home=home))
        assert current_revision(engine) == HEAD
        engine.dispose()
        assert Path(root).stat().st_mode & 0o777 == 0o700
        assert (home / "postgres" / "data").stat().st_mode & 0o077 == 0
        embedded.stop(home / "postgres")


def test_the_migrations_are_packaged() -> None:
    assert {"ledger.migrations", "ledger.migrations.versions"} <= set(find_packages(include=["ledger*"]))
