"""Checkpoints that nobody needs any more.

The policy:

- The tip of a run is kept, until told otherwise (`tips=True` collects those of runs that ended, too).
- A state inside the forest is kept while a run of an active or paused sweep still has to branch from it.
- A state within a segment is kept while the segment is unfinished and may go on from it; what else an attempt left
  behind goes once the attempt has ended.
- What another ledger's attempts left in the same storage is not touched.

Results, metric points and fits are not touched. Should a later sweep branch from a state that was collected, the
segment is trained again, to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import fsspec
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger.forest import planting
from ledger.settings import Settings
from trainer import storage


@dataclass(frozen=True)
class Item:
    """One folder to remove."""

    url: str
    size: int
    """Bytes."""
    why: str
    segment_key: str | None = None
    """The segment whose state at its end this is, if it is one."""


@dataclass(frozen=True)
class Garbage:
    """What can go."""

    items: list[Item]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(item.size for item in self.items)


def find(engine: Engine, settings: Settings, *, tips: bool = False) -> Garbage:
    """What the policy gives up, with sizes. Reads the ledger and lists the storage; changes nothing."""
    # In this order, as workers go on meanwhile: what is found was written by an attempt that still runs or has ended,
    # and of one that has ended the ledger knows by then what it left.
    found = [
        (url, storage.join(url, name))
        for url in _attempt_folders(settings.storage)
        # Hidden: who was killed while it wrote a state left half of one aside.
        for name in storage.names(url, hidden=True)
    ]
    with Session(engine) as session:
        over = _ended(session, {_attempt(url) for url, _ in found})
        kept = _referenced(session)
        ends = _unneeded_ends(session, tips=tips)
    items = [
        Item(url, size(url), "no live run branches from it", key)
        for key, url in ends.items()
        if storage.names(url)
    ]
    items += [
        Item(state, size(state), f"left behind by attempt {_attempt(url)[1]}")
        for url, state in found
        if _attempt(url) in over and state not in kept
    ]
    return Garbage(items)


def collect(engine: Engine, settings: Settings, *, tips: bool = False) -> Garbage:
    """Remove what `find` finds; what was removed.

    The ledger forgets a state before it is removed, and forgets it only if still nobody needs it: whoever comes
    between sees a segment to be trained again, never a checkpoint that is not there.
    """
    removed = []
    for item in find(engine, settings, tips=tips).items:
        if item.segment_key is not None:
            with Session(engine) as session, session.begin():
                planting(
                    session
                )  # whoever comes to need it does so before, and is seen, or after, and has it trained
                if item.segment_key not in _unneeded_ends(session, tips=tips):
                    continue
                session.execute(
                    text("UPDATE segments SET checkpoint = NULL WHERE key = :key"), {"key": item.segment_key}
                )
        storage.discard(item.url)
        removed.append(item)
    return Garbage(removed)


def size(url: str) -> int:
    """Bytes of a folder."""
    system, path = fsspec.core.url_to_fs(url)
    return int(system.du(path))


def _unneeded_ends(session: Session, *, tips: bool) -> dict[str, str]:
    """Key → checkpoint of the completed segments whose state the policy gives up."""
    rows = session.execute(
        text("""
            SELECT key, checkpoint FROM segments
            WHERE state = 'completed' AND checkpoint IS NOT NULL
                AND (:tips OR NOT EXISTS (SELECT 1 FROM runs WHERE tip_key = key))
                AND NOT EXISTS (
                    SELECT 1 FROM segments child JOIN run_segments ON segment_key = child.key
                    JOIN runs ON runs.id = run_id JOIN sweeps ON sweeps.id = sweep_id
                    WHERE child.parent_key = segments.key AND child.state IN ('pending', 'running')
                        AND runs.state = 'pending' AND sweeps.state IN ('active', 'paused'))
        """),
        {"tips": tips},
    )
    return {row.key: row.checkpoint for row in rows}


def _referenced(session: Session) -> set[str]:
    """URLs that the ledger points at."""
    rows = session.execute(
        text("""
            SELECT checkpoint FROM segments WHERE checkpoint IS NOT NULL
            UNION SELECT progress_checkpoint FROM segments WHERE progress_checkpoint IS NOT NULL
        """)
    )
    return set(rows.scalars())


def _attempt(url: str) -> tuple[str, int]:
    """The segment's key and the attempt's number of such a folder."""
    key, _, attempt = url.rstrip("/").rpartition("/attempt-")
    return key.rpartition("/")[2], int(attempt)


def _ended(session: Session, found: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of these attempts that have ended. One that this ledger does not know is another ledger's: a home may have
    had several."""
    rows = session.execute(
        text("SELECT segment_key, id FROM attempts WHERE id = ANY(:ids) AND state <> 'running'"),
        {"ids": [attempt for _, attempt in found]},
    )
    return found & {(row.segment_key, row.id) for row in rows}


def _attempt_folders(root: str) -> list[str]:
    """URLs of all `segments/<kk>/<key>/attempt-<id>` below the storage's root."""
    level = [storage.join(root, "segments")]
    for _ in range(3):
        level = [storage.join(url, name) for url in level for name in storage.names(url)]
    return [url for url in level if "/attempt-" in url]
