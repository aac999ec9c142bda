"""Submitting is the one way in: the same spec twice is one sweep, a grid may grow, anything else is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from ledger import runs, sweeps
from ledger.errors import SweepExists
from ledger.models import Run, Segment, SegmentState, Sweep
from ledger.settings import Settings
from orchestrator import submit
from orchestrator.at_hand import plan_for
from orchestrator.command.ledger_source import LedgerSource
from orchestrator.command.submit import submit as submitting
from orchestrator.spec import SpecError, load_spec
from orchestrator.submit import submit_text


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def count(session: Session, table: type) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_submitted_sweep_stands_in_the_ledger_as_it_was_planned(
    engine: Engine, settings: Settings, small: str
) -> None:
    submitted = submit_text(settings, engine, small)
    assert (submitted.outcome, submitted.runs_added) == ("created", 27)
    with Session(engine) as session:
        sweep = sweeps.get(session, "small")
        assert sweep.spec_text == small
        assert sweep.plan == submitted.plan
        rows = runs.table(session, "small")
        assert [row["steps"] for row in rows[:3]] == [80, 160, 320]
        assert {row["state"] for row in rows} == {"pending"}
        first = rows[0]
        assert first["linear_nonzero_params"] == pytest.approx(16e3, rel=0.03)
        assert first["nominal_nonzero_params"] == pytest.approx(16e3, rel=0.03)
        # D counts input positions: steps × batch × sequence length.
        assert first["data"] == 80 * 8 * 64
        assert count(session, Segment) == submitted.plan["segments"]


def test_submitting_the_same_again_changes_nothing(engine: Engine, settings: Settings, small: str) -> None:
    submit_text(settings, engine, small)
    again = submit_text(settings, engine, "# another comment\n" + small)
    assert (again.outcome, again.runs_added) == ("unchanged", 0)
    with Session(engine) as session:
        assert count(session, Sweep) == 1
        assert count(session, Run) == 27


def test_what_a_known_sweep_waits_for_is_told(
    engine: Engine, settings: Settings, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        submitting(LedgerSource(settings, engine), small.encode(), "spec", quiet=False)
        return capsys.readouterr().out

    assert "resume" not in told() + told()
    with Session(engine) as session, session.begin():
        sweeps.pause(session, "small")
        session.execute(update(Run).where(Run.position < 2).values(state=SegmentState.failed))
    again = told()
    assert "small is paused: `lacuna resume small` lets it go on" in again
    assert "2 of its runs failed: `lacuna retry small` tries them again" in again


def test_a_larger_grid_adds_only_what_is_new(engine: Engine, settings: Settings, small: str) -> None:
    submit_text(settings, engine, small)
    with Session(engine) as session:
        before = count(session, Segment)
    larger = small.replace("sparsity: [0, 0.5, 0.75]", "sparsity: [0, 0.5, 0.75, 0.875]")
    extended = submit_text(settings, engine, larger)
    assert (extended.outcome, extended.runs_added) == ("extended", 9)
    with Session(engine) as session:
        assert count(session, Run) == 36
        # Two of the new cells' three dense shapes are new; the shared trunk of the other is not planned twice.
        assert count(session, Segment) == before + 9 + 3


def test_more_seeds_are_new_runs_beside_the_old_ones(engine: Engine, settings: Settings, small: str) -> None:
    submit_text(settings, engine, small)
    seeds = small.replace("  steps:", "  seed: [0, 1]\n  steps:")
    assert submit_text(settings, engine, seeds).runs_added == 27
    with Session(engine) as session:
        names = [row["name"] for row in runs.table(session, "small")]
    assert names[27:] == [f"{name} seed=1" for name in names[:27]]


@pytest.mark.parametrize("change", ["execution: {attempts: 7}\n", "execution: {device: xla}\n"])
def test_what_would_make_every_run_a_new_one_is_refused(
    engine: Engine, settings: Settings, small: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_text(settings, engine, small)
    if "device" not in change:
        monkeypatch.setattr(submit, "torch_version", lambda device: "99.0")
    with pytest.raises(
        SweepExists, match=r"execution\.device: 'cpu' there, 'xla' here|torch: '.*' there, '99\.0' here"
    ):
        submit_text(settings, engine, small + change)
    assert submit_text(settings, engine, small).outcome == "unchanged"
    with Session(engine) as session:
        assert count(session, Run) == 27


def test_a_sweep_stays_with_the_data_that_its_runs_have_seen(
    engine: Engine, settings: Settings, small: str, tmp_path: Path
) -> None:
    submit_text(settings, engine, small)
    with Session(engine) as session:
        planned = sweeps.get(session, "small").plan["data_digest"]
    (tmp_path / "corpus" / "new.txt").write_text("something else " * 500)
    assert submit_text(settings, engine, small).outcome == "unchanged"
    larger = small.replace("[80, 160, 320]", "[80, 160, 320, 480]")
    assert submit_text(settings, engine, larger).plan["data_digest"] == planned
    with Session(engine) as session:
        assert count(session, Run) == 36
    # Should they be gone, other data do not take their place.
    shutil.rmtree(settings.data)
    with pytest.raises(SweepExists, match="would not compare"):
        submit_text(settings, engine, larger.replace("480]", "480, 640]"))


def test_what_exists_is_reused_by_another_sweep(engine: Engine, settings: Settings, small: str) -> None:
    submit_text(settings, engine, small)
    with Session(engine) as session, session.begin():
        for segment in session.scalars(select(Segment)):
            segment.state = SegmentState.completed
            segment.result = {"loss": 2.5}
    other = small.replace("name: small", "name: other")
    plan = plan_for(settings, load_spec(other), engine)
    assert plan.flops_left == 0
    submit_text(settings, engine, other)
    with Session(engine) as session:
        assert {(row["state"], row["loss"]) for row in runs.table(session, "other")} == {("completed", 2.5)}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("every: 10", "every: 20", r"pruning\.every: 10 there, 20 here"),
        ("batch_size: 8", "batch_size: 16", r"training\.batch_size: 8 there, 16 here"),
        ("[0, 0.5, 0.75]", "[0, 0.5]", r"grid\.sparsity: \[0\.0, 0\.5, 0\.75\] there"),
    ],
)
def test_another_content_under_an_old_name_is_refused_with_what_differs(
    engine: Engine, settings: Settings, small: str, old: str, new: str, says: str
) -> None:
    submit_text(settings, engine, small)
    with pytest.raises(SweepExists, match=says):
        submit_text(settings, engine, small.replace(old, new))
    with Session(engine) as session:
        assert count(session, Run) == 27


def test_a_sweep_of_an_older_version_is_the_same_though_fields_came_since(
    engine: Engine, settings: Settings, small: str
) -> None:
    submit_text(settings, engine, small)
    with Session(engine) as session, session.begin():
        sweep = sweeps.get(session, "small")
        rate = dict(sweep.spec["training"]["learning_rate"])
        del rate["linear_warmup"]
        sweep.spec = {**sweep.spec, "training": {**sweep.spec["training"], "learning_rate": rate}}
        sweep.spec_digest = "of that version"
    assert submit_text(settings, engine, small).outcome == "unchanged"
    with pytest.raises(SweepExists, match="linear_warmup: False there, True here"):
        submit_text(settings, engine, small.replace("warmup: 40", "warmup: 40, linear_warmup: true"))


def test_execution_may_change_under_the_same_name(engine: Engine, settings: Settings, small: str) -> None:
    submit_text(settings, engine, small)
    again = submit_text(settings, engine, small + "execution: {attempts: 7}\n")
    assert (again.outcome, again.runs_added) == ("unchanged", 0)
    with Session(engine) as session:
        assert sweeps.get(session, "small").spec["execution"]["attempts"] == 7


def test_a_wrong_spec_writes_nothing(engine: Engine, settings: Settings, small: str) -> None:
    with pytest.raises(SpecError):
        submit_text(settings, engine, small.replace("[0, 0.5, 0.75]", "[0, 0.5, 1.75]"))
    with Session(engine) as session:
        assert count(session, Sweep) == count(session, Segment) == 0
    assert not settings.data.exists()
