"""Runs over REST: pages, formats, reasons of failure."""

from __future__ import annotations

import csv
import io

import pytest
from fastapi.testclient import TestClient
from pyarrow import parquet
from sqlalchemy import update
from sqlalchemy.orm import Session

import fitter
from ledger.models import Run, Sweep
from tests.service import grid

RUNS = "/v1/sweeps/grid/runs"


def test_pages_join_to_the_whole_grid_in_order(client: TestClient, fitted: Sweep) -> None:
    positions: list[int] = []
    cursor: str | None = None
    while True:
        params = {"limit": "20"} | ({"cursor": cursor} if cursor else {})
        page = client.get(RUNS, params=params).json()
        positions += [item["position"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert positions == list(range(48))


def test_the_csv_fits_the_same_law_as_the_ledger(client: TestClient, fitted: Sweep) -> None:
    text = client.get(RUNS, params={"state": "completed"}, headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 48
    table = {
        column: [float(row[column]) for row in rows]
        for column in ("sparsity", "nonzero_params", "data", "loss")
    }
    again = fitter.fit(table, intervals=False, report=False)
    assert again.coefficients == pytest.approx(grid.document()["coefficients"], rel=1e-6)


def test_parquet_has_the_same_numbers(client: TestClient, fitted: Sweep) -> None:
    answer = client.get(RUNS, headers={"Accept": "application/vnd.apache.parquet"})
    table = parquet.read_table(io.BytesIO(answer.content))
    assert table["loss"].to_pylist() == [cell["loss"] for cell in grid.cells()]


def test_the_more_specific_range_of_accept_decides(client: TestClient, fitted: Sweep) -> None:
    both = client.get(RUNS, headers={"Accept": "text/*;q=0.9, application/json;q=0.5"})
    assert both.headers["content-type"].startswith("text/csv")
    browser = client.get(RUNS, headers={"Accept": "text/html,*/*;q=0.8"})
    assert browser.headers["content-type"] == "application/json"
    none = client.get(RUNS, headers={"Accept": "image/png"})
    assert none.status_code == 406


def test_a_failed_run_says_why(client: TestClient, sweep: Sweep, session: Session) -> None:
    session.execute(
        update(Run)
        .where(Run.sweep_id == sweep.id, Run.position == 5)
        .values(state="failed", reason="segment abc failed: out of memory")
    )
    session.commit()
    (failed,) = client.get(RUNS, params={"state": "failed"}).json()["items"]
    assert failed["position"] == 5
    assert "out of memory" in failed["reason"]
    assert client.get("/v1/sweeps/grid/progress").json()["health"] == "attention"


def test_text_that_a_spreadsheet_would_run_is_quoted(
    client: TestClient, sweep: Sweep, session: Session
) -> None:
    session.execute(
        update(Run)
        .where(Run.sweep_id == sweep.id, Run.position == 0)
        .values(state="failed", reason="=cmd|'/C x'!A0")
    )
    session.commit()
    text = client.get(RUNS, params={"state": "failed", "format": "csv"}).text
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["reason"] == "'=cmd|'/C x'!A0"


@pytest.mark.parametrize(
    "cursor", ["", "x", "cnVuczotMQ", "c3dlZXBzOjM", "cnVuczo5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"]
)
def test_a_cursor_of_another_list_or_made_up_is_refused(
    client: TestClient, sweep: Sweep, cursor: str
) -> None:
    answer = client.get(RUNS, params={"cursor": cursor})
    assert answer.status_code == 400
    assert answer.json()["type"].endswith("#invalid-cursor")
