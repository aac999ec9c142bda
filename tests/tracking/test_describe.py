"""What people read in MLflow of a law, whatever the law does not know."""

from __future__ import annotations

from orchestrator.tracking.describe import answer


def test_the_note_tells_of_a_gain_whose_interval_is_open() -> None:
    gain = {
        "0.5": {"value": 1.77, "low": 1.35, "high": 2.23},
        "0.75": {"value": 2.1, "low": 1.4, "high": None},
        "0.875": {"value": None, "low": None, "high": None},
    }
    said = answer({"": {"runs": 36, "form": "sparsity", "gain": gain}})
    assert "at 50 % a model is worth a dense one 1.77 (1.35 to 2.23) times as large" in said
    assert "at 75 % a model is worth a dense one 2.1 times as large" in said
    assert "87.5" not in said


def test_without_a_law_the_note_says_what_it_waits_for() -> None:
    assert "as soon as the completed runs identify it" in answer({})
