"""The law over REST: the document, conditional requests, and what it answers."""

from __future__ import annotations

import csv
import io

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from fitter.law import Law
from ledger.models import Segment, Sweep
from tests.service import grid

LAW = "/v1/sweeps/grid/law"


def test_the_law_is_the_stored_document_with_its_sweep_and_version(client: TestClient, fitted: Sweep) -> None:
    answer = client.get(LAW).json()
    assert answer.pop("sweep") == "grid"
    assert answer.pop("version") == 1
    assert answer.pop("created_at")
    assert answer == grid.document()
    assert Law.from_document(answer).coefficients["b_N"] == pytest.approx(grid.TRUE["b_N"], rel=0.3)


def test_a_client_that_polls_is_told_that_nothing_changed(
    client: TestClient, fitted: Sweep, session: Session
) -> None:
    first = client.get(LAW)
    again = client.get(LAW, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (
        client.get(LAW, headers={"If-None-Match": '"another", W/' + first.headers["etag"]}).status_code == 304
    )
    grid.store_law(session, fitted, objective=0.5)
    third = client.get(LAW, headers={"If-None-Match": first.headers["etag"]})
    assert third.status_code == 200
    assert third.json()["version"] == 2


def test_old_versions_stay_answerable(client: TestClient, fitted: Sweep, session: Session) -> None:
    grid.store_law(session, fitted, objective=0.5)
    assert client.get(LAW, params={"version": 1}).json()["objective"] == grid.document()["objective"]
    unknown = client.get(LAW, params={"version": 7})
    assert unknown.status_code == 404
    assert "versions 1 to 2" in unknown.json()["detail"]


def test_before_the_first_fit_the_answer_says_which_runs_are_missing(
    client: TestClient, sweep: Sweep, session: Session
) -> None:
    enough = "the law comes as soon as enough of them are done, and needs no others"
    assert client.get(LAW).json()["missing"] == [f"48 of 48 runs are still to come; {enough}"]
    grid.complete(session, sweep, {"sparsity": 0.0})
    assert client.get(LAW).json()["missing"] == [f"36 of 48 runs are still to come; {enough}"]
    # Once no more of them come, others are needed.
    sweep.state = "cancelled"
    session.commit()
    problem = client.get(LAW)
    assert problem.status_code == 404
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["type"].endswith("#no-law-yet")
    assert any("add runs at sparsity" in sentence for sentence in problem.json()["missing"])


def test_a_prediction_is_the_laws_own(client: TestClient, fitted: Sweep) -> None:
    law = Law.from_document(grid.document())
    expected = law.predict(0.75, 5.3e6, 1.6e10)
    answer = client.get(f"{LAW}/predict?sparsity=0.75&nonzero_params=5.3e6&data=1.6e10").json()
    assert answer["loss"] == pytest.approx(float(expected.loss), rel=1e-12)
    assert (
        answer["new_run_low"] <= answer["low"] <= answer["loss"] <= answer["high"] <= answer["new_run_high"]
    )
    assert answer["gain"] == pytest.approx(float(law.gain_at(0.75).value))
    assert answer["loss"] == pytest.approx(grid.true_loss(0.75, 5.3e6, 1.6e10), rel=0.01)


def test_many_predictions_at_once_agree_with_single_ones(client: TestClient, fitted: Sweep) -> None:
    body = {"sparsity": [0, 0.5], "nonzero_params": [1e6, 2e6], "data": [1e9, 2e9]}
    many = client.post(f"{LAW}/predict", json=body).json()
    one = client.get(f"{LAW}/predict?sparsity=0.5&nonzero_params=2e6&data=2e9").json()
    assert many["loss"][1] == pytest.approx(one["loss"], rel=1e-12)
    assert many["low"][1] == pytest.approx(one["low"], rel=1e-9)
    alone = client.post(f"{LAW}/predict", json={**body, "intervals": False}).json()
    assert (alone["loss"], alone["low"]) == (many["loss"], [None] * len(many["loss"]))
    ragged = client.post(f"{LAW}/predict", json={**body, "data": [1e9]})
    assert ragged.status_code == 422
    assert "one length" in ragged.json()["detail"]


@pytest.mark.parametrize(
    "question",
    [
        "sparsity=1&nonzero_params=1e6&data=1e9",
        "sparsity=nan&nonzero_params=1e6&data=1e9",
        "sparsity=0.5&nonzero_params=-1&data=1e9",
        "sparsity=0.5&nonzero_params=inf&data=1e9",
        "sparsity=0.5&nonzero_params=1e6",
    ],
)
def test_a_question_out_of_range_is_refused_by_name(client: TestClient, fitted: Sweep, question: str) -> None:
    answer = client.get(f"{LAW}/predict?{question}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"].startswith("query.")


@pytest.mark.parametrize("accounting", ["dense", "sparse"])
def test_the_optimum_beats_its_neighbours_at_equal_cost(
    client: TestClient, fitted: Sweep, accounting: str
) -> None:
    params = {"nonzero_params": 4e6, "flops": 1e18, "accounting": accounting}
    best = client.get(f"{LAW}/optimum", params=params).json()
    assert 0 < best["sparsity"] < 1
    assert best["low"] <= best["sparsity"] <= best["high"]
    assert best["loss"] < best["dense_loss"]
    at = {"nonzero_params": 4e6, "data": best["data"], "sparsity": best["sparsity"]}
    assert client.get(f"{LAW}/predict", params=at).json()["loss"] == pytest.approx(best["loss"], rel=1e-9)


def test_without_n_and_c_the_question_is_the_sweeps_own(client: TestClient, fitted: Sweep) -> None:
    best = client.get(f"{LAW}/optimum").json()
    assert not best["extrapolates"]
    asked = {name: best[name] for name in ("nonzero_params", "flops")}
    assert client.get(f"{LAW}/optimum", params=asked).json() == best
    half = client.get(f"{LAW}/optimum?flops=1e18")
    assert half.status_code == 422
    assert "both, or neither" in half.json()["detail"]


def test_contours_come_as_json_csv_and_parquet(client: TestClient, fitted: Sweep) -> None:
    address = f"{LAW}/contours?points=5&sparsity=0.5&sparsity=0.75"
    lines = client.get(address).json()
    assert [line["sparsity"] for line in lines["contours"]] == [0.5, 0.75]
    assert lines["contours"][0]["flops"] < lines["contours"][1]["flops"]
    text = client.get(address, headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 10
    assert float(rows[3]["flops"]) == lines["contours"][0]["flops"][3]
    parquet = client.get(address + "&format=parquet")
    assert parquet.headers["content-type"] == "application/vnd.apache.parquet"
    assert parquet.content[:4] == b"PAR1"


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_a_contour_within_rounding_of_sparsity_1_has_no_numbers(client: TestClient, fitted: Sweep) -> None:
    line = client.get(f"{LAW}/contours?points=3&sparsity={1 - 2**-52}").json()["contours"][0]
    assert line["flops"] == line["data"] == line["low"] == [None] * 3


def test_the_point_on_a_contour_has_that_optimum(client: TestClient, fitted: Sweep) -> None:
    lines = client.get(f"{LAW}/contours?points=3&sparsity=0.75").json()
    params = {"nonzero_params": lines["nonzero_params"][1], "flops": lines["contours"][0]["flops"][1]}
    assert client.get(f"{LAW}/optimum", params=params).json()["sparsity"] == pytest.approx(0.75, abs=1e-3)


def test_history_tells_what_changed_newest_first(client: TestClient, fitted: Sweep, session: Session) -> None:
    for _ in range(3):
        grid.store_law(session, fitted)
    first = client.get(f"{LAW}/history", params={"limit": 3}).json()
    assert [item["version"] for item in first["items"]] == [4, 3, 2]
    last = client.get(f"{LAW}/history", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [item["version"] for item in last["items"]] == [1]
    assert last["next_cursor"] is None
    assert first["items"][0]["coefficients"] == grid.document()["coefficients"]


def test_measured_accounting_takes_the_times_of_the_sweeps_own_runs(
    client: TestClient, fitted: Sweep, session: Session
) -> None:
    question = {"nonzero_params": 4e6, "flops": 1e19, "accounting": "measured"}
    refused = client.get("/v1/sweeps/grid/law/optimum", params=question)
    assert refused.status_code == 422
    assert "no completed run of this sweep has one" in refused.json()["detail"]
    for segment in session.scalars(select(Segment)):
        # As dense kernels take it: the size of the dense shape, N / (1 - S), at every step.
        size, _, rest = segment.key.removeprefix("N").partition("-")
        sparsity = float(rest.split("-")[0].removeprefix("S")) if rest.startswith("S") else 0.0
        segment.result = {"steps_per_second": 1e9 * (1 - sparsity) / float(size)}
    session.commit()
    grid.store_law(session, fitted)
    costs = client.get("/v1/sweeps/grid/costs").json()
    assert costs["sparsity"] == [0, 0.5, 0.75, 0.875]
    # A quarter of each run is its dense trunk, of the same N here.
    assert costs["multiplier"] == pytest.approx([1, 0.25 + 0.75 * 2, 0.25 + 0.75 * 4, 0.25 + 0.75 * 8])
    answer = client.get("/v1/sweeps/grid/law/optimum", params=question).json()
    assert answer["accounting"] == "measured"
    posted = {"nonzero_params": [4e6], "flops": [1e19], "accounting": "measured"}
    table = {"sparsity": costs["sparsity"], "multiplier": costs["multiplier"]}
    own = client.post("/v1/sweeps/grid/law/optimum", json=posted).json()["items"][0]
    given = client.post("/v1/sweeps/grid/law/optimum", json={**posted, "measured": table}).json()["items"][0]
    assert own == given == answer
    dearer = {"sparsity": [0.5], "multiplier": [50]}
    best = client.post("/v1/sweeps/grid/law/optimum", json={**posted, "measured": dearer}).json()["items"][0]
    assert best["sparsity"] < answer["sparsity"]
    wrong = client.post(
        "/v1/sweeps/grid/law/optimum", json={**posted, "accounting": "dense", "measured": table}
    )
    assert wrong.status_code == 422
    assert client.get("/v1/sweeps/grid/law/contours?accounting=measured&points=3").status_code == 200
    assert client.get("/v1/sweeps/grid/suggestions?accounting=measured&limit=1").status_code == 200
