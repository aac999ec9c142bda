"""Points on a worker's disk: what is there after kill -9, and how it comes to the ledger."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, points
from orchestrator.tracking import journal
from orchestrator.tracking.journal import Journal, folder_of, replay
from orchestrator.tracking.spool import Spool
from tests.controller.watching import rows
from tests.ledger.forests import plant


@pytest.fixture
def attempt(engine: Engine) -> int:
    """An attempt at the segment `trunk` of 50 steps."""
    with Session(engine) as session:
        plant(session)
        session.commit()
        claim = attempts.claim(session, "trunk", "c", "host:1/1")
        session.commit()
    assert claim is not None
    return claim.attempt_id


def stored(engine: Engine) -> list[tuple[int, str, float]]:
    found = rows(engine, "SELECT step, name, value FROM metric_points ORDER BY step, name")
    return [tuple(row) for row in found]


def test_what_a_killed_process_measured_comes_to_the_ledger_once(
    engine: Engine, attempt: int, tmp_path: Path
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.spool import Spool
spool = Spool(journal=Journal(Path({str(tmp_path)!r}), "trunk", {attempt}))
for step in range(1, 31):
    spool.point(step, "loss", 1 / step)
    spool.point(step, "sparsity", 0.0)
spool.point(31, "loss", 0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Session(engine) as session, session.begin():
        # Some of it had arrived, and by now another worker holds the segment.
        points.insert(session, attempt, "trunk", [(1, "loss", 1.0), (1, "sparsity", 0.0)])
        attempts.lose(session, attempt, "killed")
    with Session(engine) as session, session.begin():
        assert attempts.claim(session, "trunk", "c", "host:2/2") is not None
    assert replay(engine, tmp_path) == 58
    # Of the step in which it died nobody knows whether that was all: it is measured anew.
    assert stored(engine) == [
        (step, name, value)
        for step in range(1, 31)
        for name, value in (("loss", 1 / step), ("sparsity", 0.0))
    ]
    assert list(tmp_path.iterdir()) == []
    assert replay(engine, tmp_path) == 0


@pytest.mark.parametrize("found_first", [True, False])
def test_the_last_log_lines_of_a_killed_process_are_its_attempts_reason(
    found_first: bool, engine: Engine, attempt: int, tmp_path: Path
) -> None:
    """Whether its journal is found before the attempt is given up, or after."""
    log, journals = tmp_path / "worker.log", tmp_path / "spool"
    log.write_text("".join(f"line {index}\n" for index in range(1000)))
    Journal(journals, "trunk", attempt, log).close(remove=False)

    def give_up() -> None:
        with Session(engine) as session, session.begin():
            attempts.lose(session, attempt, "Ray says: the actor died")

    if found_first:
        replay(engine, journals)
    give_up()
    replay(engine, journals)
    [(reason,)] = rows(engine, "SELECT reason FROM attempts")
    lines = ["Ray says: the actor died", "last log lines:", *(f"line {index}" for index in range(980, 1000))]
    assert reason.splitlines() == lines


def test_a_journal_that_is_written_belongs_to_its_writer(
    engine: Engine, attempt: int, tmp_path: Path
) -> None:
    spool = Spool(journal=Journal(tmp_path, "trunk", attempt))
    for step in (1, 2, 3):
        spool.point(step, "loss", 1.0)
    assert replay(engine, tmp_path) == 0
    spool.point(4, "loss", 1.0)
    spool.close(over=False)
    assert replay(engine, tmp_path) == 3


def test_what_ended_in_good_order_leaves_nothing(engine: Engine, attempt: int, tmp_path: Path) -> None:
    spool = Spool(journal=Journal(tmp_path, "trunk", attempt))
    spool.point(1, "loss", 1.0)
    spool.close(over=True)
    assert list(tmp_path.iterdir()) == []


def test_a_long_journal_is_cut_to_what_the_ledger_lacks(
    engine: Engine, attempt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LARGEST", 1000)
    spool = Spool(journal=Journal(tmp_path, "trunk", attempt))
    for step in range(1, 101):
        spool.point(step, "loss", 1.0)
    [file] = tmp_path.iterdir()
    before = file.stat().st_size
    spool.taken(spool.batch(up_to=98))
    assert file.stat().st_size < before / 10
    # It is still its writer's, and goes on.
    assert replay(engine, tmp_path) == 0
    spool.point(101, "loss", 1.0)
    spool.close(over=False)
    assert replay(engine, tmp_path) == 2
    assert [step for step, *_ in stored(engine)] == [99, 100]


def test_torn_lines_and_a_half_written_copy_do_no_harm(engine: Engine, attempt: int, tmp_path: Path) -> None:
    (tmp_path / f"trunk.{attempt}").write_bytes(
        b"1 loss 3.0\n1 spa2 loss 2.0\n2 loss 2.0\n3 loss 1.0\n3 spars"
    )
    (tmp_path / f".trunk.{attempt}").write_bytes(b"1 loss 3.0\n2 lo")
    (tmp_path / "gone.7").write_bytes(b"1 loss 3.0\n2 loss 2.0\n")
    assert replay(engine, tmp_path) == 2
    assert [step for step, *_ in stored(engine)] == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_what_a_loss_of_power_left_is_no_poison(engine: Engine, attempt: int, tmp_path: Path) -> None:
    """Files that were being written end in zeros then, the log as well as the journal."""
    log, journals = tmp_path / "worker.log", tmp_path / "spool"
    log.write_bytes(b"the last line\n" + bytes(100))
    Journal(journals, "trunk", attempt, log).close(remove=False)
    with (journals / f"trunk.{attempt}").open("ab") as file:
        file.write(b"1 loss 3.0\n2 lo" + bytes(50) + b"ss 3.0\n3 loss 2.0\n" + bytes(50))
    replay(engine, journals)
    assert stored(engine) == [(1, "loss", 3.0)]
    [(reason,)] = rows(engine, "SELECT reason FROM attempts")
    assert "the last line" in reason
    assert list(journals.iterdir()) == []


def test_where_the_disk_takes_nothing_points_wait_in_memory(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    spool = Spool(journal=Journal(tmp_path / "spool", "trunk", 1))
    spool.point(1, "loss", 1.0)
    spool.point(2, "loss", 1.0)
    assert spool.batch() == [(1, "loss", 1.0)]
    spool.taken(spool.batch())
    spool.close(over=True)


def test_each_ledger_has_its_own_journals_whatever_its_password(tmp_path: Path) -> None:
    one, other = "postgresql://lacuna:old@host/lacuna", "postgres://lacuna:new@host/lacuna"
    assert folder_of(tmp_path, one) == folder_of(tmp_path, other)
    assert folder_of(tmp_path, one) != folder_of(tmp_path, "postgresql://lacuna:old@host/other")
