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

from sqlalchemy import Connection, RowMapping
from sqlalchemy.orm import Session

from fitter.groups import UnknownGroup, chosen
from fitter.service import problems, queries
from ledger.fits import law_document

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
    group: str
    """Which of the sweep's runs it describes; empty: all of them."""
    version: int
    fit_id: int
    body: bytes
    etag: str
    answers: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def document(self) -> dict[str, Any]:
        """What the body says; read when a question is asked, as most laws are only sent, and draws are many objects."""
        return cast(dict[str, Any], json.loads(self.body))

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

    def get(
        self, connection: Connection, name: str, version: int | None = None, group: str | None = None
    ) -> StoredLaw:
        """The newest law of a sweep, or the given version; of that group of its runs, or of the first.

        Raises Problem (404): no such sweep, group or version, or no law yet, with what is missing.
        """
        if not queries.NAME.fullmatch(name):
            raise problems.unknown_sweep(name)
        key = queries.fit_key(connection, name, version, group or None)
        if key is None:
            raise problems.unknown_sweep(name, queries.similar_names(connection, name))
        unsaid = not group and version is None and key.group
        if unsaid or (group and key.fit_id is None):
            # One of several groups, named in another way or not at all. Sweeps of one group never come here.
            group = group_of(connection, key.sweep_id, group)
            key = queries.fit_key(connection, name, version, group)
            assert key is not None
        if key.fit_id is None:
            raise _no_law(connection, key.sweep_id, name, version, group)
        with self._lock:
            if key.fit_id in self._kept:
                self._kept.move_to_end(key.fit_id)
                return self._kept[key.fit_id]
        stored = stored_law(name, queries.fit(connection, key.fit_id))
        with self._lock:
            self._kept[key.fit_id] = stored
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return stored


def group_of(connection: Connection, sweep_id: int, asked: str | None) -> str:
    """The name of the group that is meant, the first by default. Raises Problem (404)."""
    try:
        return chosen(asked, list(queries.groups(connection, sweep_id)))
    except UnknownGroup as error:
        raise problems.Problem(404, "unknown-group", "The sweep has no such group", f"{error}.") from error


def stored_law(name: str, row: RowMapping) -> StoredLaw:
    """A fit's document with its version, as `lacuna law NAME --json` prints it and REST returns it."""
    full = law_document(name, **{key: row[key] for key in ("document", "version", "group", "created_at")})
    body = json.dumps(full, ensure_ascii=False, allow_nan=False).encode()
    return StoredLaw(
        sweep=name,
        group=row["group"],
        version=row["version"],
        fit_id=row["id"],
        body=body,
        etag=f'"{name}-{row["version"]}-{row["id"]}"',
    )


def _no_law(
    connection: Connection, sweep_id: int, name: str, version: int | None, group: str | None
) -> problems.Problem:
    newest = queries.law_versions(connection, [sweep_id]).get(sweep_id)
    if version is not None and newest is not None:
        of = f" of group '{group}'" if group else ""
        return problems.Problem(
            404,
            "unknown-version",
            "The law has no such version",
            f"The law of '{name}' has versions 1 to {newest}; {version} is none of them{of}.",
        )
    missing = missing_for_a_law(connection, name, group)
    return problems.Problem(
        404,
        "no-law-yet",
        "The sweep has no law yet",
        "The law is fitted as soon as the completed runs identify it: "
        + ("; ".join(missing) or "they do, and it is on its way")
        + ".",
        missing=missing,
    )


def missing_for_a_law(connection: Connection, name: str, group: str | None) -> list[str]:
    """One sentence for each thing that the law of a sweep's group waits for: runs of the grid, or others."""
    from fitter.refit import standing

    with Session(bind=connection) as session:
        return standing(session, name, group).missing
