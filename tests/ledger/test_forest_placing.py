from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from ledger import attempts, runs, segments, sweeps
from ledger.errors import LedgerError, SweepExists
from ledger.models import Run, RunSegment, Segment, SegmentState
from tests.ledger.forests import RUNS, SEGMENTS, plant, result, run, segment


def path_of(session: Session, tip: str) -> list[str]:
    """The keys of the first run with that tip, trunk first."""
    run_id = session.scalar(select(Run.id).where(Run.tip_key == tip).order_by(Run.id))
    statement = (
        select(RunSegment.segment_key).where(RunSegment.run_id == run_id).order_by(RunSegment.position)
    )
    return list(session.scalars(statement))


def finish(session: Session, key: str) -> None:
    claim = attempts.claim(session, key, "c", "host:1")
    assert claim is not None
    attempts.complete(session, claim.attempt_id, result(claim.end_step), f"/storage/{key}")


def test_two_sweeps_share_the_segments_of_one_key(session: Session) -> None:
    plant(session, "one")
    plant(session, "two")
    assert len(session.scalars(select(Segment)).all()) == len(SEGMENTS)


def test_a_name_is_taken_once(session: Session) -> None:
    plant(session)
    with pytest.raises(SweepExists, match="sweep"):
        plant(session)


def test_an_unknown_name_tells_the_known_ones(session: Session) -> None:
    plant(session, "known")
    with pytest.raises(LedgerError, match="known"):
        sweeps.get(session, "unknown")


def test_runs_whose_tip_is_done_end_at_once_with_its_loss(session: Session) -> None:
    plant(session, "one")
    finish(session, "trunk")
    finish(session, "half")
    sweep = plant(session, "two", segments=SEGMENTS, runs=[RUNS[1]])
    assert [row["loss"] for row in runs.table(session, "two")] == [2.5]
    assert sweep.state.value == "completed"


def test_a_pending_segment_is_cut_where_a_later_plan_branches(session: Session) -> None:
    plant(session, "straight", [segment("end", None, 0, 100)], [run("end")])
    plant(
        session,
        "branching",
        [
            segment("middle", None, 0, 75),
            segment("end", "middle", 75, 100),
            segment("other", "middle", 75, 100),
        ],
        [run("middle", "end"), run("middle", "other")],
    )
    end = segments.get(session, "end")
    assert (end.parent_key, end.start_step, end.flops) == ("middle", 75, 2500.0)
    assert path_of(session, "end") == ["middle", "end"]


def test_a_finished_segment_stays_whole_and_its_inner_cut_is_not_trained(session: Session) -> None:
    plant(session, "straight", [segment("end", None, 0, 100)], [run("end")])
    finish(session, "end")
    plant(
        session,
        "longer",
        [segment("middle", None, 0, 75), segment("end", "middle", 75, 100), segment("on", "end", 100, 150)],
        [run("middle", "end", "on")],
    )
    assert path_of(session, "on") == ["end", "on"]
    assert session.get(Segment, "middle") is None
    assert segments.ready(session) == ["on"]


def test_cuts_of_two_plans_interleave(session: Session) -> None:
    plant(session, "one", [segment("75", None, 0, 75), segment("200", "75", 75, 200)], [run("75", "200")])
    plant(
        session, "two", [segment("100", None, 0, 100), segment("200", "100", 100, 200)], [run("100", "200")]
    )
    assert path_of(session, "200") == ["75", "100", "200"]
    assert segments.get(session, "100").start_step == 75


def test_a_segment_that_someone_got_somewhere_with_is_not_cut(session: Session) -> None:
    plant(session, "straight", [segment("end", None, 0, 100)], [run("end")])
    claim = attempts.claim(session, "end", "c", "host:1")
    assert claim is not None
    attempts.progress_checkpoint(session, claim.attempt_id, 90, "/storage/end/90")
    attempts.lose(session, claim.attempt_id, "gone")
    plant(
        session,
        "branching",
        [segment("middle", None, 0, 75), segment("end", "middle", 75, 100)],
        [run("middle", "end")],
    )
    assert segments.get(session, "end").parent_key is None


def test_extending_adds_only_what_is_new_and_wakes_a_finished_sweep(session: Session) -> None:
    plant(session, "sweep", SEGMENTS[:2], RUNS[:1])
    for key in ("trunk", "dense"):
        finish(session, key)
    added = sweeps.extend(
        session, "sweep", spec={}, spec_text="", spec_digest="1", plan={}, segments=SEGMENTS, runs=RUNS
    )
    assert added == 2
    table = runs.table(session, "sweep")
    assert [(row["name"], row["state"]) for row in table] == [
        ("to dense", "completed"),
        ("to half", "pending"),
        ("to most", "pending"),
    ]
    assert sweeps.get(session, "sweep").state.value == "active"


def test_submitting_anew_gives_failed_segments_a_new_budget(session: Session) -> None:
    plant(session, "one", attempts=1)
    claim = attempts.claim(session, "trunk", "c", "host:1")
    assert claim is not None
    attempts.fail(session, claim.attempt_id, attempts.AttemptEnd.data, "no data")
    plant(session, "two", attempts=2)
    trunk = segments.get(session, "trunk")
    assert (trunk.state, trunk.attempts_left) == (SegmentState.pending, 2)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.sets(st.integers(1, 9), max_size=5), min_size=1, max_size=4), done=st.integers(0, 3))
def test_however_plans_cut_one_way_every_path_is_gapless(
    engine: Engine, cuts: list[set[int]], done: int
) -> None:
    """States 1 … 10 on one way; each plan cuts it elsewhere; some segments are finished between two plans."""
    with Session(engine) as session:
        session.execute(text("TRUNCATE sweeps, segments CASCADE"))
        for number, cut in enumerate(cuts):
            steps = [*sorted(cut), 10]
            parts = [
                segment(f"at {end}", f"at {start}" if start else None, start, end)
                for start, end in zip([0, *steps], steps, strict=False)
            ]
            plant(session, f"plan {number}", parts, [run(*[part["key"] for part in parts])])
            for _ in range(done if number == 0 else 0):
                for key in segments.ready(session, limit=1):
                    finish(session, key)
            session.commit()
        while keys := segments.ready(session):
            finish(session, keys[0])
        for number in range(len(cuts)):
            [row] = runs.table(session, f"plan {number}")
            assert row["state"] == "completed"
        way = path_of(session, "at 10")
        ends = [0, *(segments.get(session, key).end_step for key in way)]
        assert ends == sorted(set(ends))
        assert [segments.get(session, key).start_step for key in way] == ends[:-1]


def test_ten_thousand_cells_are_stored(session: Session) -> None:
    parts, cells = [], []
    for trunk in range(1000):
        parts.append(segment(f"trunk {trunk}", None, 0, 50))
        for branch in range(10):
            key = f"tip {trunk}.{branch}"
            parts.append(segment(key, f"trunk {trunk}", 50, 100))
            cells.append(run(f"trunk {trunk}", key, sparsity=branch / 10))
    plant(session, "large", parts, cells)
    assert len(segments.ready(session)) == 64
