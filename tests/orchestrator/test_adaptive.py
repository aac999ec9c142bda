"""Adaptive sweeps choose what teaches most per FLOP, end where they were told to, and remember nothing themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from fitter.law import Law
from fitter.refit import Refitter
from ledger import runs, sweeps
from ledger.settings import Settings
from orchestrator.adaptive import Adaptive
from orchestrator.spec import SpecError, load_spec
from orchestrator.submit import submit_text
from tests.orchestrator.texts import SMALL

TRUTH = Law.known({"a_S": 20, "b_S": 1.2, "c_S": 40, "b_N": 0.25, "a_D": 3e3, "b_D": 0.4, "c": 0.9})

WIDE = """\
  nonzero_params: [4e3, 8e3, 16e3, 32e3, 64e3]
  sparsity: [0, 0.5, 0.75, 0.875]
  steps: [40, 80, 160, 320, 640]
"""


@pytest.fixture
def wide(small: str) -> str:
    """A hundred cells, adaptive."""
    start, end = small.index("  nonzero_params"), small.index("pruning:")
    return small[:start] + WIDE + small[end:] + "execution: {strategy: adaptive, max_concurrent: 3, LIMITS}\n"


def standing(engine: Engine) -> dict[str, Any]:
    with Session(engine) as session:
        return dict(sweeps.get(session, "small").plan["adaptive"])


def state(engine: Engine) -> str:
    with Session(engine) as session:
        return sweeps.get(session, "small").state.value


def complete(engine: Engine) -> None:
    """Every open run ends with the loss that the true law says, as if workers had been at it."""
    with Session(engine) as session:
        rows = [row for row in runs.table(session, "small") if row["state"] == "pending"]
        for row in rows:
            loss = float(TRUTH.predict(row["sparsity"], row["nonzero_params"], row["data"]).loss)
            wiggle = 1 + 0.002 * ((row["position"] * 37) % 11 - 5) / 5
            session.execute(
                text("""UPDATE segments SET state = 'completed', checkpoint = 'x', completed_at = now()
                        WHERE key IN (SELECT segment_key FROM run_segments WHERE run_id = :run)"""),
                {"run": row["id"]},
            )
            session.execute(
                text(
                    "UPDATE runs SET state = 'completed', loss = :loss, completed_at = now() WHERE id = :run"
                ),
                {"run": row["id"], "loss": loss * wiggle},
            )
        sweeps.finish_if_over(session, [sweeps.get(session, "small").id])
        session.commit()


def carry_on(settings: Settings, engine: Engine, rounds: int = 120) -> int:
    """Runs end, the law is fitted, more are chosen by whoever leads now, until the sweep is over; how often."""
    for count in range(rounds):
        if state(engine) == "completed":
            return count
        complete(engine)
        Refitter(engine).refit("small")
        # A controller of its own every time: nothing but the ledger carries over.
        Adaptive(settings, engine).look()
    raise AssertionError(f"not over after {rounds} rounds: {standing(engine)}")


def names(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return [row["name"] for row in runs.table(session, "small")]


def test_it_begins_with_as_many_cells_as_there_are_workers_and_one_more(
    wide: str, tmp_path: Path, engine: Engine
) -> None:
    settings = Settings(home=tmp_path)
    submitted = submit_text(settings, engine, wide.replace("LIMITS", "budget_flops: 1e15"))
    begun = names(engine)
    assert 2 <= submitted.runs_added == len(begun) <= 4
    assert (standing(engine)["chosen"], standing(engine)["cells"]) == (len(begun), 100)
    # While enough are open, nothing is added.
    Adaptive(settings, engine).look()
    assert names(engine) == begun


def test_it_ends_within_the_budget_and_never_chooses_a_cell_twice(
    wide: str, tmp_path: Path, engine: Engine
) -> None:
    settings = Settings(home=tmp_path)
    budget = 2e11
    submit_text(settings, engine, wide.replace("LIMITS", f"budget_flops: {budget}"))
    carry_on(settings, engine)
    found = standing(engine)
    assert "the budget of 2e+11 FLOPs" in found["stopped"]
    assert 0.5 * budget < found["flops"] <= budget
    chosen = names(engine)
    assert len(chosen) == len(set(chosen)) == found["chosen"] < 100
    with engine.connect() as connection:
        spent = connection.scalar(text("SELECT sum(flops) FROM segments"))
    assert spent == pytest.approx(found["flops"])
    # A larger budget under the same name goes on where it was.
    submit_text(settings, engine, wide.replace("LIMITS", f"budget_flops: {2 * budget}"))
    assert state(engine) == "active"
    carry_on(settings, engine)
    assert set(names(engine)) > set(chosen)
    assert found["flops"] < standing(engine)["flops"] <= 2 * budget


def test_it_ends_when_the_interval_is_as_narrow_as_wanted_for_less_than_the_whole_grid(
    wide: str, tmp_path: Path, engine: Engine
) -> None:
    settings = Settings(home=tmp_path)
    submitted = submit_text(settings, engine, wide.replace("LIMITS", "wanted_interval: 0.01"))
    carry_on(settings, engine)
    found = standing(engine)
    assert "as narrow as wanted" in found["stopped"]
    assert found["interval"] <= 0.01
    assert found["flops"] < 0.5 * submitted.plan["flops"]["shared"]
    with Session(engine) as session:
        done = runs.table(session, "small")
    law = Refitter(engine).status("small")
    assert law.version is not None
    assert len(done) < 60


def test_a_small_grid_is_trained_whole_and_is_then_over(small: str, tmp_path: Path, engine: Engine) -> None:
    settings = Settings(home=tmp_path)
    text_ = small.replace("[16e3, 32e3, 64e3]", "[16e3]") + (
        "execution: {strategy: adaptive, budget_flops: 1e30, max_concurrent: 2}\n"
    )
    submit_text(settings, engine, text_)
    carry_on(settings, engine)
    assert len(names(engine)) == 9
    assert standing(engine)["stopped"] == "every cell of the grid was chosen"


@pytest.mark.parametrize(
    ("execution", "says"),
    [
        ("{strategy: adaptive}", "needs budget_flops, wanted_interval or both"),
        ("{budget_flops: 1e12}", "only with strategy: adaptive"),
        ("{strategy: adaptive, budget_flops: -1}", "greater than 0"),
        ("{strategy: adaptive, wanted_interval: 2}", "less than 1"),
    ],
)
def test_a_strategy_without_an_end_is_refused(execution: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load_spec(SMALL + f"execution: {execution}\n")
