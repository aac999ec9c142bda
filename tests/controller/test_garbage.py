from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import attempts, segments, sweeps
from ledger.settings import Settings
from orchestrator.controller import garbage
from tests.controller.watching import rows, until
from tests.ledger.forests import RUNS, SEGMENTS, plant, result


def finish(session: Session, settings: Settings, key: str) -> Path:
    """Complete a segment with a checkpoint of a few bytes on disk, and an earlier one left beside it."""
    claim = attempts.claim(session, key, "c", "host:1")
    assert claim is not None
    folder = Path(settings.storage) / "segments" / key[:2] / key / f"attempt-{claim.attempt_id}"
    for step in (claim.end_step - 1, claim.end_step):
        (folder / f"step-{step}").mkdir(parents=True)
        (folder / f"step-{step}" / "manifest.json").write_text("x" * 100)
    end = folder / f"step-{claim.end_step}"
    attempts.complete(session, claim.attempt_id, result(claim.end_step), str(end))
    session.commit()
    return end


def test_a_trunk_is_kept_while_a_branch_waits_and_tips_are_kept(
    session: Session, engine: Engine, settings: Settings
) -> None:
    plant(session)
    trunk = finish(session, settings, "trunk")
    tip = finish(session, settings, "dense")
    found = garbage.find(engine, settings)
    assert {Path(item.url).name for item in found.items} == {"step-49", "step-99"}
    assert found.size == 200
    assert trunk.exists()
    garbage.collect(engine, settings)
    assert trunk.exists()
    assert tip.exists()
    assert garbage.find(engine, settings).items == []
    finish(session, settings, "half")
    finish(session, settings, "most")
    garbage.collect(engine, settings)
    assert not trunk.exists()
    assert tip.exists()
    garbage.collect(engine, settings, tips=True)
    assert not tip.exists()


def test_a_paused_sweep_keeps_its_states_and_a_cancelled_one_does_not(
    session: Session, engine: Engine, settings: Settings
) -> None:
    plant(session)
    trunk = finish(session, settings, "trunk")
    sweeps.pause(session, "sweep")
    session.commit()
    garbage.collect(engine, settings)
    assert trunk.exists()
    sweeps.cancel(session, "sweep")
    session.commit()
    garbage.collect(engine, settings)
    assert not trunk.exists()


def test_what_an_unfinished_segment_goes_on_from_is_kept(
    session: Session, engine: Engine, settings: Settings
) -> None:
    plant(session)
    claim = attempts.claim(session, "trunk", "c", "host:1")
    assert claim is not None
    folder = Path(settings.storage) / "segments" / "tr" / "trunk" / f"attempt-{claim.attempt_id}"
    for step in (10, 20):
        (folder / f"step-{step}").mkdir(parents=True)
        (folder / f"step-{step}" / "manifest.json").write_text("{}")
    attempts.progress_checkpoint(session, claim.attempt_id, 20, str(folder / "step-20"))
    session.commit()
    assert garbage.find(engine, settings).items == []  # the attempt is running
    attempts.lose(session, claim.attempt_id, "gone")
    session.commit()
    assert [Path(item.url).name for item in garbage.collect(engine, settings).items] == ["step-10"]
    assert (folder / "step-20").exists()


def test_what_workers_write_and_finish_while_it_looks_is_kept(
    session: Session, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(session)
    finish(session, settings, "trunk")
    listed, tips = garbage._attempt_folders, []

    def meanwhile(root: str) -> list[str]:
        tips.append(finish(session, settings, "dense"))
        found = listed(root)
        tips.append(finish(session, settings, "half"))
        return found

    monkeypatch.setattr(garbage, "_attempt_folders", meanwhile)
    garbage.collect(engine, settings)
    assert [tip.exists() for tip in tips] == [True, True]


def test_what_was_left_half_written_goes_too(session: Session, engine: Engine, settings: Settings) -> None:
    plant(session)
    claim = attempts.claim(session, "trunk", "c", "host:1")
    assert claim is not None
    folder = Path(settings.storage) / "segments" / "tr" / "trunk" / f"attempt-{claim.attempt_id}"
    (folder / ".step-10.ab12").mkdir(parents=True)
    session.commit()
    assert garbage.collect(engine, settings).items == []  # it may be writing
    attempts.lose(session, claim.attempt_id, "killed")
    session.commit()
    garbage.collect(engine, settings)
    assert list(folder.iterdir()) == []


def test_another_ledgers_states_are_not_touched(session: Session, engine: Engine, settings: Settings) -> None:
    plant(session)
    finish(session, settings, "trunk")  # so that there is an attempt of the same number
    theirs = Path(settings.storage) / "segments" / "ab" / "abcd" / "attempt-1" / "step-10"
    theirs.mkdir(parents=True)
    garbage.collect(engine, settings, tips=True)
    assert theirs.exists()


def test_a_state_that_somebody_comes_to_need_meanwhile_is_kept(
    session: Session, engine: Engine, settings: Settings
) -> None:
    plant(session, "sweep", SEGMENTS[:2], RUNS[:1])
    trunk = finish(session, settings, "trunk")
    finish(session, settings, "dense")
    with Session(engine) as submitting:
        sweeps.extend(
            submitting, "sweep", spec={}, spec_text="", spec_digest="1", plan={}, segments=SEGMENTS, runs=RUNS
        )
        collecting = threading.Thread(target=garbage.collect, args=[engine, settings])
        collecting.start()
        until(lambda: rows(engine, "SELECT 1 FROM pg_locks WHERE NOT granted"))
        submitting.commit()
    collecting.join()
    assert trunk.exists()
    assert segments.ready(session) == ["half", "most"]


@pytest.mark.parametrize("wake", ["extend", "resume"])
def test_a_collected_state_is_trained_again_when_a_branch_needs_it(
    session: Session, engine: Engine, settings: Settings, wake: str
) -> None:
    part = 2 if wake == "extend" else 4
    plant(session, "sweep", SEGMENTS[:part], RUNS[: part - 1])
    finish(session, settings, "trunk")
    finish(session, settings, "dense")
    if wake == "resume":
        sweeps.cancel(session, "sweep")
        session.commit()
    garbage.collect(engine, settings)
    assert segments.get(session, "trunk").checkpoint is None
    if wake == "extend":
        sweeps.extend(
            session, "sweep", spec={}, spec_text="", spec_digest="1", plan={}, segments=SEGMENTS, runs=RUNS
        )
    else:
        sweeps.resume(session, "sweep")
    session.commit()
    assert segments.ready(session) == ["trunk"]
    finish(session, settings, "trunk")
    assert segments.ready(session) == ["half", "most"]
