"""A sweep that switches its source: checked, planned, and stored with both kinds of data."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ledger.models import Segment
from ledger.settings import Settings
from orchestrator.at_hand import plan_for
from orchestrator.spec import SpecError, load_spec
from orchestrator.submit import submit_text
from trainer.program import Program


@pytest.fixture
def switching(small: str, tmp_path: Path) -> str:
    """The small sweep, its last 60 steps on another corpus."""
    folder = tmp_path / "second"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index}.txt").write_text(f"{index} " + "sphinx of black quartz judge my vow. " * 40)
    return small.replace("sequence_length: 64", f"sequence_length: 64, then: {{at: 20, source: {folder}}}")


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("at: 20", "at: 80", "data.then.at", "is step 80, which lies outside a run of 80 steps"),
        (
            "at: 20",
            "at: 20.5",
            "data.then.at",
            "must be a whole number of steps, or a share of the run below 1",
        ),
        ("at: 20", "at: 20, sauce: 3", "data.then.sauce", "did you mean `source`?"),
        ("at: 20, source: ", "at: 20, source: ./none/", "data.then.source", "no such file or folder"),
    ],
)
def test_a_switch_that_cannot_be_is_said(switching: str, old: str, new: str, path: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(switching.replace(old, new))
    assert any(problem.path == path and said in problem.message for problem in caught.value.problems)


def test_both_kinds_of_data_are_prepared_and_what_precedes_the_switch_is_shared(
    switching: str, settings: Settings, engine: Engine
) -> None:
    submit_text(settings, engine, switching)
    with Session(engine) as session:
        segments = session.scalars(select(Segment)).all()
    programs = [Program.from_dict(segment.program) for segment in segments]
    digests = {program.then.data.digest for program in programs if program.then is not None}
    assert len(digests) == 1
    assert digests != {programs[0].data.digest}
    # Pruning begins at step 20 of the shortest runs too: no segment goes over a switch that another one shares.
    assert all(segment.end_step <= 20 or segment.start_step >= 20 for segment in segments)
    plan = plan_for(settings, load_spec(switching), engine)
    assert {segment.key for segment in plan.segments} == {segment.key for segment in segments}
    plain = plan_for(settings, load_spec(switching.replace("at: 20", "at: 0.9")), engine)
    assert {run.program.then.at for run in plain.runs if run.program.then} == {72, 144, 288}
    assert plan.repeats is not None
    assert max(plan.repeats) > 1
