"""Laws in memory: a fit never changes, so what is computed from it is computed once.

Which version is the newest is asked of the ledger at every request (one statement, two index look-ups); the document,
its JSON bytes and the law object are kept by the fit's id.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import Connection

from fitter.service import problems, queries

if TYPE_CHECKING:
    from fitter.law import Law

T = TypeVar("T")

CAPACITY = 128
"""Laws kept. A law with its bootstrap draws is some 100 kB."""
ANSWERS = 64
"""Answers (such as contours) kept for each law."""


@dataclass
class StoredLaw:
    """One version of a sweep's law, ready to be sent and to be asked."""

    sweep: str
    version: int
    fit_id: int
    document: dict[str, Any]
    body: bytes
    etag: str
    answers: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def law(self) -> Law:
        """The law that answers questions. Raises DocumentError where the document is of another kind."""
        from fitter.law import Law

        return Law.from_document(self.document)

    def trained(self, axis: str) -> tuple[float, float]:
        """Smallest and largest value of an axis among the runs of the fit."""
        low, high = self.document["diagnostics"]["ranges"][axis]
        return float(low), float(high)

    def remember(self, question: Any, answer: Callable[[], T]) -> T:
        """The answer to a hashable question, computed the first time."""
        with self.lock:
            if question in self.answers:
                self.answers.move_to_end(question)
                return cast(T, self.answers[question])
        computed = answer()
        with self.lock:
            self.answers[question] = computed
            while len(self.answers) > ANSWERS:
                self.answers.popitem(last=False)
        return computed


class LawCache:
    """The laws that were asked for last. Threads may share it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[int, StoredLaw] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, connection: Connection, name: str, version: int | None = None) -> StoredLaw:
        """The newest law of a sweep, or the given version.

        Raises Problem (404): no such sweep, no such version, or no law yet, with what is missing.
        """
        if not queries.NAME.fullmatch(name):
            raise problems.unknown_sweep(name)
        key = queries.fit_key(connection, name, version)
        if key is None:
            raise problems.unknown_sweep(name, queries.similar_names(connection, name))
        sweep_id, fit_id, found_version = key
        if fit_id is None or found_version is None:
            raise _no_law(connection, sweep_id, name, version)
        with self._lock:
            if fit_id in self._kept:
                self._kept.move_to_end(fit_id)
                return self._kept[fit_id]
        row = queries.fit(connection, fit_id)
        stored = stored_law(name, row["document"], found_version, fit_id, row["created_at"].isoformat())
        with self._lock:
            self._kept[fit_id] = stored
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return stored


def stored_law(name: str, document: dict[str, Any], version: int, fit_id: int, created_at: str) -> StoredLaw:
    """A fit's document with its version, as `lacuna law NAME --json` prints it and REST returns it."""
    full = {**document, "sweep": name, "version": version, "created_at": created_at}
    body = json.dumps(full, ensure_ascii=False, allow_nan=False).encode()
    return StoredLaw(
        sweep=name,
        version=version,
        fit_id=fit_id,
        document=full,
        body=body,
        etag=f'"{name}-{version}-{fit_id}"',
    )


def _no_law(connection: Connection, sweep_id: int, name: str, version: int | None) -> problems.Problem:
    newest = queries.law_versions(connection, [sweep_id]).get(sweep_id)
    if version is not None and newest is not None:
        return problems.Problem(
            404,
            "unknown-version",
            "The law has no such version",
            f"The law of '{name}' has versions 1 to {newest}; {version} is none of them.",
        )
    missing = missing_for_a_law(connection, sweep_id)
    return problems.Problem(
        404,
        "no-law-yet",
        "The sweep has no law yet",
        "The law is fitted as soon as the completed runs identify it. " + " ".join(missing),
        missing=missing,
    )


def missing_for_a_law(connection: Connection, sweep_id: int) -> list[str]:
    """One sentence for each thing that the completed runs of a sweep lack to identify its law."""
    from fitter.errors import TableError
    from fitter.identifiability import gate
    from fitter.table import check

    rows = [
        {**run["cell"], "loss": run["loss"]}
        for run in queries.runs_page(connection, sweep_id)
        if run["loss"] is not None and run["state"].value == "completed"
    ]
    columns = ("sparsity", "nonzero_params", "data", "loss")
    if not rows:
        return ["No run has completed yet."]
    try:
        table = check({column: [row.get(column) for row in rows] for column in columns})
    except TableError as error:
        return error.problems
    return list(gate(table, "sparsity").missing)
