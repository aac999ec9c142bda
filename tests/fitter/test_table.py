"""Bad tables are refused with every problem named, and where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fitter
from fitter.errors import TableError
from fitter.table import check, columns, read
from tests.fitter.designs import OPTIMUM_T5, t5_points, table_of


@pytest.fixture
def frame() -> pd.DataFrame:
    """A sound table."""
    return pd.DataFrame(table_of(t5_points(), OPTIMUM_T5)).drop(columns="unique_data")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("loss", np.nan, r"row 3: loss is missing or NaN"),
        ("loss", np.inf, r"row 3: loss is infinite"),
        ("loss", 0.0, r"row 3: loss is zero"),
        ("loss", -1.0, r"row 3: loss is negative"),
        ("nonzero_params", -5.0, r"row 3: nonzero_params is negative"),
        ("nonzero_params", 0.0, r"row 3: nonzero_params is zero"),
        ("data", 0.0, r"row 3: data is zero"),
        ("data", -1.0, r"row 3: data is negative"),
        ("data", -np.inf, r"row 3: data is infinite"),
        ("sparsity", 1.0, r"row 3: sparsity is 1 or more"),
        ("sparsity", 75.0, r"row 3: sparsity is 1 or more; .* 75 per cent is 0.75"),
        ("sparsity", -0.1, r"row 3: sparsity is negative"),
        ("sparsity", np.nan, r"row 3: sparsity is missing or NaN"),
    ],
)
def test_each_bad_value_is_its_own_error(
    frame: pd.DataFrame, column: str, value: float, message: str
) -> None:
    frame.loc[2, column] = value
    with pytest.raises(TableError, match=message) as caught:
        fitter.fit(frame)
    assert len(caught.value.problems) == 1


def test_all_problems_are_reported_at_once(frame: pd.DataFrame) -> None:
    frame.loc[0, "loss"] = np.nan
    frame.loc[1, "sparsity"] = 1.5
    frame.loc[[2, 5], "data"] = 0
    with pytest.raises(TableError) as caught:
        check(frame)
    assert len(caught.value.problems) == 3
    assert "rows 3, 6: data is zero" in str(caught.value)


def test_text_where_a_number_belongs_is_shown(frame: pd.DataFrame) -> None:
    table = frame.to_dict("list")
    table["loss"][4] = "diverged"
    with pytest.raises(TableError, match=r"row 5: loss is not a number \(first: 'diverged'\)"):
        check(table)


def test_a_missing_column_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="column 'data' is missing; needed are sparsity"):
        check(frame.drop(columns="data"))


def test_an_empty_table_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="no rows"):
        check(frame.iloc[:0])


def test_duplicated_cells_that_disagree_are_named(frame: pd.DataFrame) -> None:
    again = frame.iloc[[7]].assign(loss=lambda t: t["loss"] * 1.01)
    with pytest.raises(TableError, match=r"rows 8, 49: one cell .* losses that disagree .* seed column"):
        check(pd.concat([frame, again]))


def test_duplicated_cells_are_fine_with_seeds_patterns_or_equal_losses(frame: pd.DataFrame) -> None:
    other = frame.assign(loss=frame["loss"] * 1.01)
    check(pd.concat([frame.assign(seed=0), other.assign(seed=1)]))
    check(pd.concat([frame.assign(pattern="2:4"), other.assign(pattern="4:8")]))
    check(pd.concat([frame, frame]))


def test_unique_data_cannot_exceed_data(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="unique_data exceeds data"):
        check(frame.assign(unique_data=frame["data"] * 2))


def test_something_that_is_no_table_is_refused() -> None:
    with pytest.raises(TableError, match="not int"):
        columns(3)
    with pytest.raises(TableError, match="differ in length"):
        columns({"loss": [1, 2], "data": [1]})


@pytest.mark.parametrize("ending", ["csv", "parquet", "json", "jsonl"])
def test_every_file_format_reads_back_the_same_runs(tmp_path: Path, frame: pd.DataFrame, ending: str) -> None:
    frame = frame.assign(pattern="unstructured", seed=0)
    path = tmp_path / f"runs.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=ending == "jsonl", double_precision=15)
    found = check(read(path))
    assert found.loss == pytest.approx(frame["loss"].to_numpy(), rel=1e-14)
    assert set(found.labels) == {"pattern", "seed"}
    if ending in ("csv", "parquet"):
        assert found.digest() == check(frame).digest()


def test_json_may_hold_columns(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(frame.to_dict("list")))
    assert check(read(path)).digest() == check(frame).digest()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.csv", None, "no file"),
        ("runs.xlsx", "x", "readable are"),
        ("runs.csv", "", "is empty"),
        ("runs.csv", "sparsity,loss\n0.5\n", "row 1: not 2 fields"),
        ("runs.json", "{", "cannot be read as json"),
        ("runs.parquet", "no parquet", "cannot be read as parquet"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(TableError, match=message):
        read(path)


def test_the_digest_tells_tables_apart(frame: pd.DataFrame) -> None:
    other: Any = frame.copy()
    other.loc[0, "loss"] += 1e-12
    assert check(other).digest() != check(frame).digest()
