"""Fitting a posted table."""

from __future__ import annotations

import io
from typing import Any

import pandas
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from fitter.law import Law
from tests.service import grid

FIT = "/v1/fit?draws=0"


def as_csv(cells: list[dict[str, Any]]) -> str:
    """A runs table as CSV."""
    columns = ("sparsity", "nonzero_params", "data", "loss")
    return "\n".join([",".join(columns), *(",".join(repr(c[name]) for name in columns) for c in cells)])


def test_every_format_gives_the_law_of_the_table(client: TestClient) -> None:
    sink = io.BytesIO()
    pandas.DataFrame(grid.cells()).to_parquet(sink)
    answers = [
        client.post(FIT, content=as_csv(grid.cells()), headers={"content-type": "text/csv"}),
        client.post(FIT, json=grid.cells()),
        client.post(FIT, json={"runs": grid.cells()}),
        client.post(FIT, json={name: [c[name] for c in grid.cells()] for name in grid.cells()[0]}),
        client.post(FIT, content=sink.getvalue(), headers={"content-type": "application/vnd.apache.parquet"}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        law = Law.from_json(answer.content)
        assert law.coefficients == pytest.approx(grid.document()["coefficients"], rel=1e-6)


def test_nothing_is_stored(client: TestClient, engine: Engine) -> None:
    assert client.post(FIT, json=grid.cells()).status_code == 200
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM fits")) == 0


def test_every_problem_of_a_table_is_named_with_its_rows(client: TestClient) -> None:
    cells = [dict(cell) for cell in grid.cells()]
    cells[2]["sparsity"] = 75
    cells[4]["loss"] = "NaN"
    answer = client.post(FIT, json=cells)
    assert answer.status_code == 422
    messages = " ".join(item["message"] for item in answer.json()["errors"])
    assert "row 3" in messages
    assert "row 5" in messages


def test_a_table_that_is_too_narrow_says_what_it_lacks(client: TestClient) -> None:
    answer = client.post(FIT, json=[cell for cell in grid.cells() if cell["sparsity"] == 0])
    assert answer.status_code == 422
    assert answer.json()["type"].endswith("#law-not-identified")
    assert "sparsity" in answer.json()["missing"][0]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "text/csv", 422),
        (b"sparsity,loss\n", "text/csv", 422),
        (b"\xff\xfe\x00", "text/csv", 422),
        (b"{", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"3", "application/json", 422),
        (b'{"sparsity": 3}', "application/json", 422),
        (b"PAR1 not really", "application/vnd.apache.parquet", 422),
        (b"x", "application/zip", 415),
    ],
)
def test_a_body_that_is_no_table_is_refused_with_a_reason(
    client: TestClient, body: bytes, kind: str, status: int
) -> None:
    answer = client.post(FIT, content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert "/tmp" not in answer.text


@pytest.mark.parametrize(
    "query", ["form=none", "huber_delta=nan", "huber_delta=-1", "level=2", "residual=cube"]
)
def test_a_setting_out_of_range_is_refused(client: TestClient, query: str) -> None:
    assert client.post(f"{FIT}&{query}", json=grid.cells()).status_code == 422


def test_suggestions_stay_within_the_compute_allowed(client: TestClient, fitted: Any) -> None:
    answer = client.get("/v1/sweeps/grid/suggestions?flops=1e18&limit=5").json()
    assert 0 < len(answer["items"]) <= 5
    assert sum(item["flops"] for item in answer["items"]) <= 1e18
    done = {(c["sparsity"], c["nonzero_params"], c["data"]) for c in grid.cells()}
    assert not done & {(i["sparsity"], i["nonzero_params"], i["data"]) for i in answer["items"]}
    assert [item["deviation"] for item in answer["items"]] == sorted(
        (item["deviation"] for item in answer["items"]), reverse=True
    )
