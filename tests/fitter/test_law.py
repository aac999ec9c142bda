"""A law is one immutable value: it answers questions, and survives JSON to the last bit."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitter
from fitter.errors import DocumentError, SettingError
from fitter.law import Law
from tests.fitter.designs import OPTIMUM_T5, PUBLISHED_T5, PUBLISHED_VIT, t5_points, table_of


def test_json_round_trip_is_exact(noisy_law: Law) -> None:
    again = Law.from_json(noisy_law.to_json())
    assert again == noisy_law
    assert again.coefficients == noisy_law.coefficients
    assert again.draws.tobytes() == noisy_law.draws.tobytes()
    assert again.to_json() == noisy_law.to_json()


def test_a_law_read_back_answers_the_same(noisy_law: Law, tmp_path: Path) -> None:
    noisy_law.save(tmp_path / "law.json")
    again = Law.load(tmp_path / "law.json")
    assert again.predict(0.6, 3e7, 2e10) == noisy_law.predict(0.6, 3e7, 2e10)
    assert again.optimum(2e7, 1e20, "sparse") == noisy_law.optimum(2e7, 1e20, "sparse")


def test_pickle_and_copy_keep_it(noisy_law: Law) -> None:
    assert pickle.loads(pickle.dumps(noisy_law)) == noisy_law
    assert copy.deepcopy(noisy_law) == noisy_law


def test_the_document_has_the_agreed_keys(noisy_law: Law) -> None:
    document = json.loads(noisy_law.to_json())
    agreed = {"form", "coefficients", "objective", "runs", "intervals", "diagnostics", "gain", "data_digest"}
    assert agreed <= set(document)
    assert list(document["coefficients"]) == ["a_S", "b_S", "c_S", "b_N", "a_D", "b_D", "c"]
    assert set(document["gain"]) == {"0.5", "0.75", "0.875"}
    assert set(document["gain"]["0.5"]) == {"value", "low", "high"}
    assert document["definitions"]["units"]["a_D"] == "data units"
    assert {"nonzero_params", "data", "loss"} <= set(document["definitions"])
    assert document["settings"]["huber_delta"] == 1e-3
    assert document["software"]["lacuna"] == fitter.__version__
    assert len(document["data_digest"]) == 64


def test_nothing_in_it_can_be_changed(noisy_law: Law) -> None:
    with pytest.raises(FrozenInstanceError):
        noisy_law.objective = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        noisy_law.coefficients["c"] = 0.0  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        noisy_law.draws[0, 0] = 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": None}, "lacks form"),
        ({"coefficients": {"a": 1.0}}, "has coefficients a_S"),
        ({"form": "cubic"}, "'cubic' is unknown"),
    ],
)
def test_foreign_documents_are_refused(noisy_law: Law, change: dict[str, Any], message: str) -> None:
    document = {**noisy_law.document(), **change}
    document = {key: value for key, value in document.items() if value is not None}
    with pytest.raises(DocumentError, match=message):
        Law.from_document(document)


def test_text_that_is_no_law_is_refused() -> None:
    with pytest.raises(DocumentError, match="is JSON"):
        Law.from_json("{")
    with pytest.raises(DocumentError, match="JSON object"):
        Law.from_json("[1]")


def test_a_document_without_draws_still_predicts(noisy_law: Law) -> None:
    document = noisy_law.document()
    del document["draws"], document["noise"]
    law = Law.from_document(document)
    prediction = law.predict(0.5, 1e7, 1e10)
    assert prediction.loss == noisy_law.predict(0.5, 1e7, 1e10).loss
    assert np.isnan(prediction.low)


def test_predictions_are_vectorised_and_ordered(noisy_law: Law) -> None:
    prediction = noisy_law.predict(np.array([0.0, 0.5, 0.75])[:, None], np.geomspace(1e6, 1e9, 5), 3e10)
    assert prediction.loss.shape == (3, 5)
    assert np.all(prediction.new_run_low < prediction.low)
    assert np.all(prediction.low < prediction.loss)
    assert np.all(prediction.loss < prediction.high)
    assert np.all(prediction.high < prediction.new_run_high)
    one = noisy_law.predict(0.5, float(np.geomspace(1e6, 1e9, 5)[2]), 3e10, new_run=False)
    assert np.isnan(one.new_run_low)
    assert one.loss == noisy_law.loss(0.5, float(np.geomspace(1e6, 1e9, 5)[2]), 3e10)
    assert one.loss == pytest.approx(prediction.loss[1, 2])
    assert one.low == pytest.approx(prediction.low[1, 2])


def test_intervals_widen_with_the_level_and_away_from_the_data(noisy_law: Law) -> None:
    narrow, wide = noisy_law.predict(0.5, 2e7, 3e10, level=0.5), noisy_law.predict(0.5, 2e7, 3e10, level=0.99)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    far = noisy_law.predict(0.5, 2e11, 3e13)
    near = noisy_law.predict(0.5, 2e7, 3e10)
    assert far.high - far.low > 3 * (near.high - near.low)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ((1.0, 1e7, 1e9), "sparsity must lie in"),
        ((-0.1, 1e7, 1e9), "sparsity must lie in"),
        ((0.5, 0.0, 1e9), "nonzero_params must be positive"),
        ((0.5, 1e7, np.nan), "data must be positive"),
    ],
)
def test_impossible_questions_are_refused(noisy_law: Law, question: tuple[float, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        noisy_law.predict(*question)


@pytest.mark.parametrize(
    ("coefficients", "gains"),
    [
        (PUBLISHED_VIT, (1.60, 2.17, 2.63)),
        (PUBLISHED_T5, (1.59, 2.16, 2.63)),
        (OPTIMUM_T5, (1.77, 2.27, 2.51)),
    ],
)
def test_published_gains_follow_from_published_coefficients(
    coefficients: dict[str, float], gains: tuple[float, ...]
) -> None:
    law = Law.known(coefficients)
    assert law.gain_at([0.5, 0.75, 0.875]).value == pytest.approx(gains, abs=0.006)
    assert [gain["value"] for gain in law.gain.values()] == pytest.approx(gains, abs=0.006)
    assert Law.from_json(law.to_json()) == law


def test_gain_intervals_hold_the_estimate(noisy_law: Law) -> None:
    gain = noisy_law.gain_at(0.75)
    assert gain.low < gain.value < gain.high
    assert noisy_law.gain["0.75"] == {
        "value": pytest.approx(float(gain.value)),
        "low": pytest.approx(float(gain.low)),
        "high": pytest.approx(float(gain.high)),
    }


def test_a_dense_law_has_no_gain() -> None:
    law = fitter.fit(
        table_of(
            t5_points(), {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 410.0, "beta": 0.28}, form="chinchilla"
        ),
        form="chinchilla",
        intervals=False,
    )
    assert law.gain == {}
    with pytest.raises(SettingError, match="does not depend on sparsity"):
        law.gain_at(0.5)


def test_unidentified_coefficients_have_no_numbers(t5_law: Law) -> None:
    """D spans 4× in the paper's T5 sweep: b_D, a_D and c trade off."""
    for name in ("a_D", "b_D", "c"):
        assert t5_law.intervals[name] == {"low": None, "high": None, "level": 0.9, "identified": False}
    for name in ("a_S", "b_S", "c_S", "b_N"):
        low, high = t5_law.intervals[name]["low"], t5_law.intervals[name]["high"]
        assert low is not None
        assert high is not None
        assert low < t5_law.coefficients[name] < high


def test_importing_the_fitter_costs_nothing() -> None:
    import subprocess
    import sys

    heavy = "numpy,scipy,pandas,matplotlib,torch,ray,mlflow,sqlalchemy"
    code = f"import sys, fitter; print([m for m in {heavy.split(',')} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_a_fit_needs_neither_scipy_nor_pandas_nor_plots() -> None:
    import subprocess
    import sys

    code = (
        "import sys, fitter, numpy as np\n"
        "from tests.fitter.designs import table_of, t5_points, OPTIMUM_T5\n"
        "law = fitter.fit(table_of(t5_points(), OPTIMUM_T5, noise=0.01), draws=20)\n"
        "law.optimum(1e7, 1e20)\n"
        "heavy = ['scipy', 'pandas', 'matplotlib', 'torch', 'ray', 'mlflow', 'sqlalchemy']\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"


def test_a_gain_that_the_runs_say_nothing_about_is_unbounded_not_infinite() -> None:
    # Losses that do not depend on N: b_N is near zero, and a dense model of equal loss may be of any size.
    rng = np.random.default_rng(3)
    runs = [
        {"sparsity": s, "nonzero_params": n, "data": d, "loss": 2 + 3 * d**-0.3 - 0.1 * s}
        for s in (0.0, 0.5, 0.75)
        for n in (4e3, 8e3, 16e3)
        for d in (1e4, 2e4, 4e4)
    ]
    table = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    table["loss"] = table["loss"] * np.exp(0.01 * rng.standard_normal(len(runs)))
    law = fitter.fit(table)
    json.loads(law.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert any(gain["high"] is None for gain in law.gain.values())
