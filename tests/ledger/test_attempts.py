from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from ledger import attempts, channels, controllers, points, progress, runs, segments, sweeps
from ledger.attempts import Verdict
from ledger.channels import Listener
from ledger.errors import Fenced
from ledger.models import Attempt, AttemptEnd, AttemptState, Run, Segment, SegmentState, SweepState
from tests.ledger.forests import SEGMENTS, plant, result, run, segment


def claimed(session: Session, key: str, controller: str = "c1") -> attempts.Claim:
    claim = attempts.claim(session, key, controller, "host:1")
    assert claim is not None
    session.commit()
    return claim


def finish(session: Session, key: str, loss: float = 2.5) -> attempts.Claim:
    claim = claimed(session, key)
    attempts.complete(session, claim.attempt_id, result(claim.end_step, loss), f"/storage/{key}")
    session.commit()
    return claim


def skip_backoff(session: Session) -> None:
    session.execute(update(Segment).values(retry_at=None))
    session.commit()


def test_only_a_segment_whose_parent_is_done_is_ready(session: Session) -> None:
    plant(session)
    assert segments.ready(session) == ["trunk"]
    assert attempts.claim(session, "half", "c1", "host:1") is None
    finish(session, "trunk")
    assert segments.ready(session) == ["dense", "half", "most"]


def test_a_claim_carries_the_parents_checkpoint_and_the_execution_settings(session: Session) -> None:
    plant(session, checkpoint_every=25)
    finish(session, "trunk")
    claim = claimed(session, "half")
    assert claim.parent_checkpoint == "/storage/trunk"
    assert (claim.start_step, claim.end_step) == (50, 100)
    assert claim.execution["checkpoint_every"] == 25


def test_two_claims_never_get_the_same_segment(session: Session, engine: Engine) -> None:
    keys = [f"s{index}" for index in range(20)]
    plant(session, segments=[segment(key, None, 0, 10) for key in keys], runs=[run(key) for key in keys])

    def worker(number: int) -> list[str]:
        taken = []
        for key in keys:
            with Session(engine) as own, own.begin():
                if attempts.claim(own, key, "c1", f"host:{number}"):
                    taken.append(key)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [key for keys in pool.map(worker, range(8)) for key in keys]
    assert sorted(taken) == sorted(keys)


def test_an_outlived_attempts_writes_are_refused(session: Session) -> None:
    plant(session)
    old = claimed(session, "trunk", "c1")
    assert attempts.fence_off(session, "c2") == 1
    session.commit()
    new = claimed(session, "trunk", "c2")
    assert attempts.heartbeat(session, old.attempt_id, step=9, loss=1.0) is Verdict.fenced
    for write in (
        lambda: attempts.complete(session, old.attempt_id, result(50), "/old"),
        lambda: attempts.progress_checkpoint(session, old.attempt_id, 9, "/old"),
        lambda: attempts.fail(session, old.attempt_id, AttemptEnd.code, "late"),
        lambda: attempts.stop(session, old.attempt_id, "late"),
        lambda: attempts.diverge(session, old.attempt_id, "late"),
        lambda: points.insert(session, old.attempt_id, "trunk", [(1, "loss", 2.0)]),
    ):
        with pytest.raises(Fenced):
            write()
        session.rollback()
    attempts.complete(session, new.attempt_id, result(50), "/new")
    assert segments.get(session, "trunk").checkpoint == "/new"


def test_the_database_itself_refuses_a_second_running_attempt(session: Session) -> None:
    plant(session)
    claimed(session, "trunk")
    with pytest.raises(Exception, match="attempts_running_once"):
        session.execute(
            text("""
                INSERT INTO attempts (segment_key, controller, worker, state, started_step, step)
                VALUES ('trunk', 'c', 'w', 'running', 0, 0)
            """)
        )


def test_nothing_is_completed_twice(session: Session) -> None:
    plant(session)
    claim = finish(session, "trunk")
    with pytest.raises(Fenced):
        attempts.complete(session, claim.attempt_id, result(50, 9.9), "/again")
    session.rollback()
    assert attempts.claim(session, "trunk", "c1", "host:2") is None


def test_completing_a_tip_completes_its_runs_in_every_sweep_and_tells_the_fitter(
    session: Session, engine: Engine
) -> None:
    plant(session, "one")
    plant(session, "two")
    listener = Listener(engine, channels.RUNS)
    listener.wait(0)
    finish(session, "trunk")
    finish(session, "half", 2.25)
    told = {payload for _ in range(2) for _, payload in listener.wait(2)}
    listener.close()
    assert told == {"one", "two"}
    for sweep in ("one", "two"):
        losses = {
            row["name"]: row["loss"] for row in runs.table(session, sweep) if row["state"] == "completed"
        }
        assert losses == {"to half": 2.25}


def test_a_sweep_is_over_when_its_last_run_ended(session: Session) -> None:
    sweep = plant(session)
    for key in ("trunk", "dense", "half"):
        finish(session, key)
    session.refresh(sweep)
    assert sweep.state is SweepState.active
    finish(session, "most")
    session.refresh(sweep)
    assert sweep.state is SweepState.completed
    assert sweep.finished_at is not None


def test_two_last_runs_that_end_at_once_end_the_sweep(session: Session, engine: Engine) -> None:
    keys = [f"s{index}" for index in range(8)]
    sweep = plant(
        session, segments=[segment(key, None, 0, 10) for key in keys], runs=[run(key) for key in keys]
    )
    ids = [claimed(session, key).attempt_id for key in keys]

    def complete(attempt_id: int) -> None:
        with Session(engine) as own, own.begin():
            attempts.complete(own, attempt_id, result(10), "/x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(complete, ids))
    session.refresh(sweep)
    assert sweep.state is SweepState.completed


def test_a_failure_spends_the_budget_and_waits_longer_each_time(session: Session) -> None:
    sweep = plant(session, attempts=3)
    pauses = []
    for left in (2, 1, 0):
        claim = claimed(session, "trunk")
        attempts.fail(session, claim.attempt_id, AttemptEnd.code, f"ValueError, {left} left")
        pauses.append(
            session.scalar(
                text("SELECT extract(epoch FROM retry_at - now())::float8 FROM segments WHERE key = 'trunk'")
            )
        )
        session.commit()
        assert session.scalar(select(Segment.attempts_left).where(Segment.key == "trunk")) == left
        if left:
            assert segments.ready(session) == []
            skip_backoff(session)
    assert pauses == [1.0, 2.0, 4.0]
    assert segments.get(session, "trunk").state is SegmentState.failed
    table = runs.table(session, "sweep")
    assert {row["state"] for row in table} == {"failed"}
    assert "ValueError, 0 left" in table[0]["reason"]
    session.refresh(sweep)
    assert sweep.state is SweepState.completed


def test_losing_a_worker_costs_no_budget(session: Session) -> None:
    plant(session, attempts=1)
    for _ in range(5):
        claim = claimed(session, "trunk")
        assert attempts.lose(session, claim.attempt_id, "node gone")
        assert not attempts.lose(session, claim.attempt_id, "told twice")
        session.commit()
        skip_backoff(session)
    assert segments.ready(session) == ["trunk"]
    assert segments.get(session, "trunk").attempts_left == 1


def test_a_segment_that_kills_its_workers_at_once_waits_longer_each_time(session: Session) -> None:
    plant(session)
    waits = []
    for _ in range(4):
        claim = claimed(session, "trunk")
        attempts.lose(session, claim.attempt_id, "killed")
        waits.append(
            session.scalar(
                text(
                    "SELECT coalesce(extract(epoch FROM retry_at - now())::float8, 0) FROM segments WHERE key = 'trunk'"
                )
            )
        )
        session.commit()
        skip_backoff(session)
    assert waits == [0.0, 1.0, 3.0, 7.0]


def test_workers_that_die_and_get_nowhere_spend_the_budget_in_the_end(session: Session) -> None:
    plant(session, attempts=2)
    for death in range(1, attempts.FRUITLESS_DEATHS + 2):
        assert segments.get(session, "trunk").state is SegmentState.pending
        claim = claimed(session, "trunk")
        # Each comes as far as the first, and no further.
        attempts.heartbeat(session, claim.attempt_id, step=7, loss=None)
        attempts.lose(session, claim.attempt_id, f"killed, the {death}th")
        session.commit()
        skip_backoff(session)
    assert segments.get(session, "trunk").state is SegmentState.failed
    [reason] = {row["reason"] for row in runs.table(session, "sweep")}
    assert f"{attempts.FRUITLESS_DEATHS + 1} workers in a row died" in reason
    assert reason.endswith("killed, the 11th")


@pytest.mark.parametrize("checkpoints", [False, True])
def test_workers_that_die_and_get_somewhere_are_replaced_without_end(
    session: Session, checkpoints: bool
) -> None:
    plant(session, attempts=1)
    for death in range(1, 2 * attempts.FRUITLESS_DEATHS):
        claim = claimed(session, "trunk")
        attempts.heartbeat(session, claim.attempt_id, step=30 if checkpoints else death, loss=None)
        if checkpoints:
            attempts.progress_checkpoint(session, claim.attempt_id, death, f"/storage/{death}")
        attempts.lose(session, claim.attempt_id, "preempted")
        session.commit()
        # Nor do others come first.
        assert segments.ready(session) == ["trunk"]
    assert segments.get(session, "trunk").attempts_left == 1


def test_who_was_killed_for_its_memory_is_trained_alone_and_told_how_often(session: Session) -> None:
    plant(session)
    finish(session, "trunk")
    for kills in range(3):
        claim = claimed(session, "half")
        assert (claim.memory_kills, claim.alone) == (kills, kills > 0)
        if kills == 1:
            # The evidence may come when its death has been taken for preemption, and another goes on.
            attempts.lose(session, claim.attempt_id, "node gone")
            session.commit()
            skip_backoff(session)
            other = claimed(session, "half")
        attempts.killed_for_memory(session, "dense", claim.attempt_id, "not of this segment")
        attempts.killed_for_memory(session, "half", claim.attempt_id, "oom_kill 0 → 1")
        session.commit()
        assert session.get_one(Attempt, claim.attempt_id).kind is AttemptEnd.memory
        if kills == 1:
            assert attempts.heartbeat(session, other.attempt_id, step=51, loss=None) is Verdict.go_on
            attempts.stop(session, other.attempt_id, "paused")
            session.commit()
        skip_backoff(session)
    # Nobody takes it along.
    assert segments.siblings(session, "dense", ["family"], sweep_ids=None, limit=9) == ["most"]


def test_a_lease_runs_out_without_heartbeats(session: Session) -> None:
    plant(session)
    claim = claimed(session, "trunk")
    assert attempts.expire(session) == 0
    session.execute(update(Attempt).values(heartbeat_at=text("now() - interval '20 seconds'")))
    assert attempts.expire(session, lease_seconds=15) == 1
    lost = session.get_one(Attempt, claim.attempt_id)
    assert (lost.state, lost.kind) == (AttemptState.lost, AttemptEnd.preempted)
    assert segments.ready(session) == ["trunk"]


def test_divergence_is_recorded_and_never_tried_again(session: Session) -> None:
    plant(session)
    finish(session, "trunk")
    claim = claimed(session, "half")
    attempts.diverge(session, claim.attempt_id, "loss is nan at step 70")
    session.commit()
    assert segments.ready(session) == ["dense", "most"]
    row = runs.table(session, "sweep")[1]
    assert row["state"] == "diverged"
    assert "nan at step 70" in row["reason"]
    plant(session, "again")
    assert runs.table(session, "again")[1]["state"] == "diverged"


def test_runs_behind_a_diverged_trunk_end_with_it(session: Session) -> None:
    sweep = plant(session)
    claim = claimed(session, "trunk")
    attempts.diverge(session, claim.attempt_id, "loss is inf at step 3")
    session.commit()
    assert {row["state"] for row in runs.table(session, "sweep")} == {"diverged"}
    session.refresh(sweep)
    assert sweep.state is SweepState.completed


def test_a_new_attempt_goes_on_from_the_checkpoint_of_a_lost_one(session: Session) -> None:
    plant(session)
    claim = claimed(session, "trunk")
    attempts.progress_checkpoint(session, claim.attempt_id, 25, "/storage/trunk/25")
    attempts.lose(session, claim.attempt_id, "gone")
    session.commit()
    again = claimed(session, "trunk")
    assert (again.resume_from, again.resume_step) == ("/storage/trunk/25", 25)


@pytest.mark.parametrize("change", [sweeps.pause, sweeps.cancel])
def test_pausing_reaches_the_worker_by_its_heartbeat(session: Session, change) -> None:  # type: ignore[no-untyped-def]
    plant(session)
    claim = claimed(session, "trunk")
    assert attempts.heartbeat(session, claim.attempt_id, step=3, loss=5.0) is Verdict.go_on
    change(session, "sweep")
    assert attempts.heartbeat(session, claim.attempt_id, step=4, loss=5.0) is Verdict.stop
    attempts.stop(session, claim.attempt_id, "paused")
    assert segments.ready(session) == []
    sweeps.resume(session, "sweep")
    assert segments.ready(session) == ["trunk"]


def test_a_shared_trunk_goes_on_while_any_sweep_wants_it(session: Session) -> None:
    plant(session, "one")
    plant(session, "two")
    claim = claimed(session, "trunk")
    sweeps.pause(session, "one")
    assert attempts.heartbeat(session, claim.attempt_id, step=3, loss=None) is Verdict.go_on


def test_a_stopping_controller_stops_its_workers(session: Session) -> None:
    plant(session)
    controllers.register(session, "c1")
    claim = claimed(session, "trunk")
    controllers.stop(session, "c1")
    assert attempts.heartbeat(session, claim.attempt_id, step=3, loss=None) is Verdict.stop


def test_sweeps_of_higher_priority_go_first_and_equals_take_turns(session: Session) -> None:
    for name in ("a", "b"):
        keys = [f"{name}{index}" for index in range(3)]
        plant(
            session,
            name,
            segments=[segment(key, None, 0, 10) for key in keys],
            runs=[run(key) for key in keys],
        )
    order = []
    for _ in range(4):
        key = segments.ready(session)[0]
        order.append(key)
        claimed(session, key)
    assert [key[0] for key in order] in (["a", "b", "a", "b"], ["a", "b", "b", "a"])
    sweeps.get(session, "b").priority = 1
    session.flush()
    assert segments.ready(session)[0].startswith("b")


def test_a_small_sweep_does_not_wait_behind_large_ones_however_few_workers_there_are(
    session: Session,
) -> None:
    for name, flops in (("large", 9000), ("vast", 8000), ("small", 1)):
        keys = [f"{name}{index}" for index in range(4)]
        plant(
            session,
            name,
            segments=[segment(key, None, 0, 10, priority=flops) for key in keys],
            runs=[run(key) for key in keys],
        )
    # As many workers as there may be, all at once.
    assert segments.ready(session, limit=6) == ["large0", "vast0", "small0", "large1", "vast1", "small1"]
    order = []
    for _ in range(6):  # one worker
        key = segments.ready(session)[0]
        order.append(key)
        finish(session, key)
    assert order == ["large0", "vast0", "small0", "large1", "vast1", "small1"]
    claimed(session, "large2")  # two workers, one of whom has it: the others take turns
    order = []
    for _ in range(4):
        key = segments.ready(session)[0]
        order.append(key)
        finish(session, key)
    assert order == ["vast2", "small2", "vast3", "small3"]


def test_the_reason_and_place_of_failed_attempts_can_be_read(session: Session) -> None:
    plant(session)
    claim = claimed(session, "trunk")
    attempts.fail(session, claim.attempt_id, AttemptEnd.memory, "out of memory")
    [row] = runs.failed_attempts(session, "sweep")
    assert (row["kind"], row["reason"], row["worker"]) == ("memory", "out of memory", "host:1")
    assert row["runs"] == ["to dense", "to half", "to most"]


def test_progress_counts_shared_steps_once(session: Session) -> None:
    plant(session)
    finish(session, "trunk")
    claim = claimed(session, "half")
    attempts.heartbeat(session, claim.attempt_id, step=60, loss=3.0)
    found = progress.progress(session, "sweep")
    assert (found.total, found.completed, found.running, found.pending) == (3, 0, 1, 2)
    assert (found.steps_total, found.steps_done, found.steps_alone) == (200, 60, 300)
    assert (found.segments_total, found.segments_done, found.segments_shared) == (4, 1, 1)
    assert found.eta_seconds is not None
    for key in ("dense", "most"):
        finish(session, key, 2.0)
    attempts.complete(session, claim.attempt_id, result(100, 1.5), "/x")
    found = progress.progress(session, "sweep")
    assert (found.state, found.best_loss, found.best_run, found.eta_seconds) == (
        "completed",
        1.5,
        "to half",
        0.0,
    )


def test_retry_gives_failed_runs_a_new_budget(session: Session) -> None:
    sweep = plant(session, attempts=1)
    claim = claimed(session, "trunk")
    attempts.fail(session, claim.attempt_id, AttemptEnd.data, "no such file")
    session.commit()
    assert sweeps.retry(session, "sweep") == 3
    session.commit()
    assert sweep.state is SweepState.active
    assert segments.ready(session) == ["trunk"]
    assert session.scalars(select(Run.state)).all() == [SegmentState.pending] * 3
    assert len(SEGMENTS) == 4


def test_retry_trains_a_trunk_again_whose_checkpoint_is_gone(session: Session) -> None:
    plant(session, "sweep", SEGMENTS[:3], [run("trunk", "dense"), run("trunk", "half")], attempts=1)
    attempts.complete(session, claimed(session, "trunk").attempt_id, result(50), "file:///trunk")
    attempts.fail(session, claimed(session, "dense").attempt_id, AttemptEnd.checkpoint, "it is gone")
    session.commit()
    assert sweeps.retry(session, "sweep") == 1
    session.commit()
    assert segments.ready(session) == ["trunk"]
    attempts.complete(session, claimed(session, "trunk").attempt_id, result(50), "file:///again")
    assert segments.ready(session) == ["dense", "half"]


def test_workers_of_a_controller_that_stops_or_was_overtaken_take_up_nothing(session: Session) -> None:
    plant(session)
    for name in ("stopped", "old"):
        controllers.register(session, name)
    controllers.stop(session, "stopped")
    assert attempts.claim(session, "trunk", "stopped", "host:1") is None
    assert attempts.claim(session, "trunk", "old", "host:1") is not None
    controllers.register(session, "new")
    assert attempts.fence_off(session, "new") == 1
    assert attempts.claim(session, "trunk", "old", "host:1") is None
    assert attempts.claim(session, "trunk", "new", "host:2") is not None


def test_a_reason_may_be_any_text_and_where_it_is_long_its_both_ends_are_kept(session: Session) -> None:
    plant(session)
    claim = attempts.claim(session, "trunk", "c", "host:1/1")
    assert claim is not None
    # What Postgres takes in no text: zeros, and half of a pair of UTF-16.
    attempts.fail(
        session, claim.attempt_id, AttemptEnd.code, "ValueError: \0\udc80" + "x" * 10**6 + "\nlast\0line"
    )
    session.commit()
    [(reason,)] = session.execute(text("SELECT reason FROM attempts")).all()
    assert reason.startswith("ValueError: \N{REPLACEMENT CHARACTER}")
    assert reason.endswith("\nlast\N{REPLACEMENT CHARACTER}line")
    assert len(reason) <= attempts.REASON_LENGTH
