"""Runs tables: reading them, and refusing bad ones with every problem named.

A table has the columns `sparsity, nonzero_params, data, loss` and optionally `family, pattern, method, seed,
steps, unique_data`. Any of a DataFrame, a mapping of arrays, a list of records, or another `Runs` will do.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitter.errors import TableError
from fitter.forms.form import Points

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

REQUIRED = ("sparsity", "nonzero_params", "data", "loss")
LABELS = ("family", "pattern", "method", "seed")
_SHOWN = 8


@dataclass(frozen=True)
class Runs:
    """A checked runs table: n runs, all numbers finite and in range.

    Args:
        sparsity: [n] fraction in [0, 1).
        nonzero_params: [n] non-zero parameters.
        data: [n] tokens or images seen.
        loss: [n] validation loss.
        unique_data: [n] distinct tokens or images (equal to `data` where the table does not say).
        labels: optional text columns (family, pattern, method, seed), [n] each.
        rows: [n] row numbers in the table they came from; the first row of data is row 1.
    """

    sparsity: Array
    nonzero_params: Array
    data: Array
    loss: Array
    unique_data: Array
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.loss.size)

    def points(self) -> Points:
        """Where the runs lie, without their losses."""
        return Points(self.sparsity, self.nonzero_params, self.data, self.unique_data)

    def take(self, which: NDArray[Any]) -> Runs:
        """The runs at these indices or where this mask [n] is true."""
        arrays = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "labels"}
        return replace(self, **arrays, labels={name: column[which] for name, column in self.labels.items()})

    def with_loss(self, loss: Array) -> Runs:
        """The same design with other losses [n]."""
        return replace(self, loss=np.asarray(loss, dtype=float))

    def cells(self) -> NDArray[np.int64]:
        """[n] cell number of each run: runs that differ in nothing but the seed share a cell."""
        keys = [self.sparsity, self.nonzero_params, self.data, self.unique_data]
        codes = [np.unique(key, return_inverse=True)[1] for key in keys]
        codes += [
            np.unique(column.astype(str), return_inverse=True)[1]
            for name, column in self.labels.items()
            if name != "seed"
        ]
        return np.asarray(np.unique(np.stack(codes), axis=1, return_inverse=True)[1].ravel(), dtype=np.int64)

    def flops(self, multiplier: Array | float = 1.0) -> Array:
        """Training FLOPs [n], 6 · N · D times a cost multiplier."""
        return np.asarray(6.0 * self.nonzero_params * self.data * multiplier)

    def digest(self) -> str:
        """SHA-256 of the runs, whatever their order: equal digests, equal data."""
        names = sorted(self.labels)
        numbers = zip(
            self.sparsity.tolist(),
            self.nonzero_params.tolist(),
            self.data.tolist(),
            self.unique_data.tolist(),
            self.loss.tolist(),
            *(self.labels[name].astype(str).tolist() for name in names),
            strict=True,
        )
        lines = sorted(json.dumps(row) for row in numbers)
        return hashlib.sha256("\n".join([json.dumps(names), *lines]).encode()).hexdigest()


def read(path: str | Path) -> Columns:
    """Columns of a CSV, Parquet or JSON file, as a mapping that `pandas.DataFrame` and `fit` both take.

    JSON may be a list of records, or an object of columns. Text that is no number stays text, for `check` to
    report by row.

    Raises:
        TableError: no such file, unknown ending, or a file that cannot be parsed.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError([f"no file '{path}'"])
    ending = path.suffix.lower()
    try:
        if ending in (".csv", ".tsv", ".txt"):
            return _read_text(path, "\t" if ending == ".tsv" else ",")
        if ending in (".parquet", ".pq"):
            import pyarrow.parquet  # heavy, and only this ending needs it

            table = pyarrow.parquet.read_table(path)
            return {name: _numbers(table[name].to_pylist()) for name in table.column_names}
        if ending in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            if ending == ".jsonl":
                return columns([json.loads(line) for line in text.splitlines() if line.strip()])
            return columns(json.loads(text))
    except TableError:
        raise
    except (ValueError, OSError) as error:
        raise TableError([f"'{path}' cannot be read as {ending[1:]}: {error}"]) from error
    raise TableError([f"'{path}' ends in '{ending}'; readable are .csv, .tsv, .parquet, .json, .jsonl"])


def _read_text(path: Path, delimiter: str) -> Columns:
    with path.open(newline="", encoding="utf-8-sig") as handle:
        lines = [line for line in csv.reader(handle, delimiter=delimiter) if line]
    if not lines:
        raise TableError([f"'{path}' is empty; the first line must name the columns {', '.join(REQUIRED)}"])
    header, *rows = lines
    header = [name.strip() for name in header]
    ragged = [number for number, row in enumerate(rows, 1) if len(row) != len(header)]
    if ragged:
        raise TableError([f"{_rows(ragged)}: not {len(header)} fields as in the header"])
    return {name: _numbers([row[i].strip() for row in rows]) for i, name in enumerate(header)}


def columns(table: Any) -> Columns:
    """Columns of anything table-like: DataFrame, mapping of arrays, list of records, or `Runs`.

    Raises:
        TableError: not table-like, or columns of different lengths.
    """
    if isinstance(table, Runs):
        base = {name: getattr(table, name) for name in (*REQUIRED, "unique_data")}
        return {**base, **table.labels}
    if isinstance(table, Mapping):
        if not all(hasattr(table[name], "__len__") and not isinstance(table[name], str) for name in table):
            raise TableError(["a table given as an object needs a list of values for each column"])
        found = {str(name): _numbers(list(table[name])) for name in table}
    elif hasattr(table, "columns") and hasattr(table, "__getitem__"):
        found = {str(name): _numbers(np.asarray(table[name]).tolist()) for name in table.columns}
    elif isinstance(table, Sequence) and all(isinstance(record, Mapping) for record in table):
        names = list(dict.fromkeys(str(name) for record in table for name in record))
        found = {name: _numbers([record.get(name) for record in table]) for name in names}
    else:
        raise TableError(
            [f"a table is a DataFrame, a mapping of columns or a list of records, not {type(table).__name__}"]
        )
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise TableError([f"columns differ in length: {lengths}"])
    return found


def _numbers(values: list[Any]) -> NDArray[Any]:
    """A float column where every value is a number or missing, else the values as they are."""
    try:
        return np.array(
            [np.nan if v is None or v == "" else _number(v) for v in values],
            dtype=float,
        )
    except (ValueError, TypeError):
        return np.array(["" if v is None else v for v in values], dtype=object)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a truth value is not a number")
    return float(value)


def check(table: Any) -> Runs:
    """The runs of a table, all of it checked.

    Raises:
        TableError: with one sentence for every kind of problem, each naming its rows.
    """
    if isinstance(table, Runs):
        return table
    found = columns(table)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        have = ", ".join(found) or "none"
        raise TableError(
            [
                f"column '{name}' is missing; needed are {', '.join(REQUIRED)}; found: {have}"
                for name in missing
            ]
        )
    count = len(found["loss"])
    if count == 0:
        raise TableError(["the table has columns but no rows"])
    problems: list[str] = []
    numeric = {
        name: _checked_numbers(name, found[name], problems)
        for name in (*REQUIRED, "unique_data")
        if name in found
    }
    problems += _range_problems(numeric)
    labels = {name: _as_label(found[name]) for name in LABELS if name in found}
    runs = Runs(
        **{name: numeric[name] for name in REQUIRED},
        unique_data=numeric.get("unique_data", numeric["data"]),
        labels=labels,
        rows=np.arange(1, count + 1),
    )
    if not problems:
        problems += _disagreements(runs)
    if problems:
        raise TableError(problems)
    return runs


def _as_label(column: NDArray[Any]) -> NDArray[Any]:
    """Text of a label column; 0.0 reads as 0, so that seeds look as they were written."""
    if column.dtype == float:
        return np.array([f"{value:g}" for value in column], dtype=object)
    return np.array([str(value) for value in column], dtype=object)


def _checked_numbers(name: str, column: NDArray[Any], problems: list[str]) -> Array:
    """The column as floats; values that are no numbers become NaN and are reported."""
    out = np.full(column.size, np.nan)
    text: list[int] = []
    for index, value in enumerate(column):
        try:
            out[index] = np.nan if value == "" else _number(value)
        except (ValueError, TypeError):
            text.append(index + 1)
    if text:
        shown = column[text[0] - 1]
        problems.append(f"{_rows(text)}: {name} is not a number (first: {shown!r})")
    gone = [i + 1 for i in np.flatnonzero(np.isnan(out)).tolist() if i + 1 not in set(text)]
    if gone:
        problems.append(f"{_rows(gone)}: {name} is missing or NaN; drop runs that have not finished")
    endless = (np.flatnonzero(np.isinf(out)) + 1).tolist()
    if endless:
        problems.append(f"{_rows(endless)}: {name} is infinite; drop runs that diverged")
    return out


def _range_problems(numeric: Mapping[str, Array]) -> Iterator[str]:
    for name, column in numeric.items():
        finite = np.isfinite(column)
        if name == "sparsity":
            low = (np.flatnonzero(finite & (column < 0)) + 1).tolist()
            high = (np.flatnonzero(finite & (column >= 1)) + 1).tolist()
            if low:
                yield f"{_rows(low)}: sparsity is negative; it is the fraction of zero weights, in [0, 1)"
            if high:
                worst = column[high[0] - 1]
                hint = f"; {worst:g} per cent is {worst / 100:g}" if 1 < worst < 100 else ""
                yield f"{_rows(high)}: sparsity is 1 or more; it is a fraction in [0, 1){hint}"
        else:
            zero = (np.flatnonzero(finite & (column == 0)) + 1).tolist()
            negative = (np.flatnonzero(finite & (column < 0)) + 1).tolist()
            if zero:
                yield f"{_rows(zero)}: {name} is zero; it must be positive"
            if negative:
                yield f"{_rows(negative)}: {name} is negative; it must be positive"
    if "unique_data" in numeric:
        more = (np.flatnonzero(numeric["unique_data"] > numeric["data"]) + 1).tolist()
        if more:
            yield f"{_rows(more)}: unique_data exceeds data; it counts the distinct part of data"


def _disagreements(runs: Runs) -> Iterator[str]:
    """Runs that agree in every column but the loss."""
    cell = runs.cells()
    if "seed" in runs.labels:
        seed = np.unique(runs.labels["seed"].astype(str), return_inverse=True)[1]
        cell = cell * (int(seed.max()) + 1) + seed
    order = np.argsort(cell, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        loss = runs.loss[group]
        if group.size > 1 and np.ptp(loss) > 1e-9 * loss.mean():
            first = group[0]
            yield (
                f"{_rows(runs.rows[np.sort(group)].tolist())}: one cell (sparsity {runs.sparsity[first]:g}, "
                f"nonzero_params {runs.nonzero_params[first]:g}, data {runs.data[first]:g}) has losses that "
                f"disagree ({loss.min():.6g} to {loss.max():.6g}); keep one, or add a seed column"
            )


def _rows(numbers: Sequence[int]) -> str:
    """'row 3' or 'rows 1, 2, 3 and 40 more'."""
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    if len(numbers) == 1:
        return f"row {shown}"
    more = len(numbers) - _SHOWN
    return f"rows {shown}" + (f" and {more} more" if more > 0 else "")
