"""OOM kills: where the kernel counts them, and how a killed worker is known by them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts
from ledger.models import Attempt, AttemptEnd, AttemptState
from orchestrator.tracking.journal import Journal, replay
from orchestrator.tracking.oom import OomKills
from tests.ledger.forests import plant

#: Bytes that the killed process may have: Python starts in less.
LIMIT = 96 * 2**20

V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


@pytest.fixture
def attempt(engine: Engine) -> int:
    """An attempt at the segment `trunk`."""
    with Session(engine) as session:
        plant(session)
        claim = attempts.claim(session, "trunk", "c", "host:1/1")
        session.commit()
    assert claim is not None
    return claim.attempt_id


def ended(engine: Engine, attempt: int) -> tuple[AttemptState, AttemptEnd | None]:
    with Session(engine) as session:
        row = session.get_one(Attempt, attempt)
        return row.state, row.kind


@pytest.mark.parametrize(
    ("own", "file", "content", "count"),
    [
        ("0::/user.slice/session.scope\n", "user.slice/session.scope/memory.events", V2, 2),
        # In a container's namespace its cgroup is the root.
        ("0::/\n", "memory.events", V2, 2),
        ("5:cpu:/\n4:memory:/docker/x\n0::/\n", "memory/docker/x/memory.oom_control", V1, 5),
        # Without one, it sees its host's path, and only its own files.
        ("4:hugetlb,memory:/kubepods/pod1/x\n", "memory/memory.oom_control", V1, 5),
    ],
)
def test_the_count_of_ones_own_cgroup_is_found(
    tmp_path: Path, own: str, file: str, content: str, count: int
) -> None:
    (tmp_path / "own").write_text(own)
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    found = OomKills.here(tmp_path / "own", tmp_path / "cgroup")
    assert found == OomKills(path, count)
    path.write_text(content.replace(f"oom_kill {count}", f"oom_kill {count + 1}"))
    assert found.now().count == count + 1
    path.unlink()
    assert found.now() == found


def test_where_the_kernel_counts_none_there_is_none(tmp_path: Path) -> None:
    assert OomKills.here(tmp_path / "own", tmp_path) is None
    (tmp_path / "own").write_text("0::/\n")
    assert OomKills.here(tmp_path / "own", tmp_path) is None


@pytest.mark.parametrize(("noticed", "kind"), [(False, AttemptEnd.memory), (True, None)])
def test_a_kill_that_a_worker_lived_to_see_was_anothers(
    engine: Engine,
    attempt: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    noticed: bool,
    kind: AttemptEnd | None,
) -> None:
    events = tmp_path / "memory.events"
    events.write_text(V2)
    monkeypatch.setattr(OomKills, "here", classmethod(lambda cls: OomKills(events, 2)))
    journal = Journal(tmp_path / "journals", "trunk", attempt)
    events.write_text(V2.replace("oom_kill 2", "oom_kill 3"))
    if noticed:
        journal.keep([])  # with a heartbeat
    journal.close(remove=False)  # as its end does
    replay(engine, tmp_path / "journals")
    assert ended(engine, attempt)[1] is kind


@pytest.fixture
def cgroup() -> Iterator[tuple[Path, Path]]:
    """A memory cgroup with a limit of LIMIT: its folder, and the file that takes processes in."""
    here = OomKills.here()
    if here is None:
        pytest.skip("this system has no memory cgroup")
    folder = here.path.parent / f"lacuna-test-{os.getpid()}"
    v1 = here.path.name == "memory.oom_control"
    try:
        folder.mkdir(exist_ok=True)
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(LIMIT))
        with suppress(OSError):  # without an account of swap there is none to limit
            (folder / ("memory.memsw.limit_in_bytes" if v1 else "memory.swap.max")).write_text(
                str(LIMIT if v1 else 0)
            )
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no cgroup with a limit can be made here: {error}")
    yield folder, folder / "cgroup.procs"
    folder.rmdir()


def test_a_worker_that_the_kernel_killed_for_its_memory_is_known_by_its_journal(
    engine: Engine, attempt: int, cgroup: tuple[Path, Path], tmp_path: Path
) -> None:
    code = f"""
import os
from pathlib import Path
Path({str(cgroup[1])!r}).write_text(str(os.getpid()))
from orchestrator.tracking.journal import Journal
journal = Journal(Path({str(tmp_path)!r}), "trunk", {attempt})
journal.append(1, "loss", 1.0)
held = []
while True:
    held.append(bytearray(os.urandom(4096)) * 256)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ended(engine, attempt) == (AttemptState.running, None)
    replay(engine, tmp_path)
    assert ended(engine, attempt) == (AttemptState.lost, AttemptEnd.memory)
    with Session(engine) as session:
        reason = session.get_one(Attempt, attempt).reason
    assert reason is not None
    assert "killed the worker for want of memory" in reason
    # Killed by somebody else, it is not known by it, though one was killed for its memory here before.
    with Session(engine) as session, session.begin():
        claim = attempts.claim(session, "trunk", "c", "host:2/1")
        assert claim is not None
    code = code.replace(str(attempt) + ")", str(claim.attempt_id) + ")").replace(
        "while True:", "while os.kill(os.getpid(), 9):"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    replay(engine, tmp_path)
    assert ended(engine, claim.attempt_id) == (AttemptState.running, None)
