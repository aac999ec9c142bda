"""Placing a plan on the forest that the ledger already holds.

A segment's key names the state it ends in, so a new plan may cut the way to a known state elsewhere: it branches at
step 75 where an earlier sweep went straight to 100. Both cuts are right. What is done or running stays as it is; what
is still pending is cut at every branch that any sweep needs, so that nothing is computed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.bulk import copy
from ledger.models import SegmentState
from ledger.segments import WANTED

#: Advisory lock, for the transaction, of whoever changes which states of the forest are needed: two plans must not cut
#: it at once, and no state may be given up that another comes to need.
PLANTING_LOCK = 0x1AC0_0002


@dataclass
class Node:
    """A segment while it is being placed. `start_step` is its parent's end, or 0."""

    key: str
    parent_key: str | None
    start_step: int
    end_step: int
    flops: float
    state: str
    begun: bool
    new: bool
    moved: bool = False

    @property
    def movable(self) -> bool:
        """Whether it may still be cut differently: nobody has got anywhere with it."""
        return self.state in ("pending", "failed") and not self.begun


class Forest:
    """The segments that a plan touches, old and new, with their parents as they shall be."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.key: node for node in nodes}

    def offer(self, key: str, parent_key: str) -> None:
        """Say that `parent_key` lies on the way to `key`; the later of two such states becomes the parent,
        and the earlier is offered to the later in turn."""
        while True:
            node, parent = self.nodes[key], self.nodes[parent_key]
            if not node.movable or node.parent_key == parent_key:
                return
            current = node.parent_key and self.nodes[node.parent_key]
            if current and current.end_step > parent.end_step:
                key = current.key
                continue
            node.flops *= (node.end_step - parent.end_step) / (node.end_step - node.start_step)
            node.parent_key, node.start_step, node.moved = parent_key, parent.end_step, True
            if not current:
                return
            key, parent_key = parent_key, current.key

    def path(self, tip: str) -> list[str]:
        """The keys from the root to a tip."""
        path: list[str] = []
        key: str | None = tip
        while key:
            path.append(key)
            key = self.nodes[key].parent_key
        return path[::-1]


def planting(session: Session) -> None:
    """Be alone in changing the forest until the transaction ends."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PLANTING_LOCK})


def place_segments(
    session: Session, segments: Sequence[Mapping[str, Any]], tips: Sequence[str], *, attempts: int
) -> dict[str, list[str]]:
    """Bring a plan's segments into the ledger; for each tip the path of keys that leads there, trunk first.

    Failed segments on these paths get a new budget of `attempts`: whoever submits anew wants them tried anew.
    """
    planting(session)
    given = {segment["key"]: segment for segment in segments}
    nodes = _known(session, list(given))
    forest = Forest(nodes.values())
    for segment in segments:
        if segment["key"] not in nodes:
            forest.nodes[segment["key"]] = Node(
                key=segment["key"],
                parent_key=segment["parent_key"],
                start_step=segment["start_step"],
                end_step=segment["end_step"],
                flops=float(segment["flops"]),
                state="pending",
                begun=False,
                new=True,
            )
    for segment in segments:
        if segment["parent_key"] is not None:
            forest.offer(segment["key"], segment["parent_key"])
    paths = {tip: forest.path(tip) for tip in set(tips)}
    needed = {key for path in paths.values() for key in path}
    # A state that every path reaches through a longer, finished segment is not needed at all.
    _insert(
        session,
        ((forest.nodes[key], given[key]) for key in given if key in needed and forest.nodes[key].new),
        attempts,
    )
    _move(session, [node for node in forest.nodes.values() if node.moved and not node.new])
    _renew(
        session,
        [key for key in needed if not forest.nodes[key].new],
        attempts,
        {key: int(segment["priority"]) for key, segment in given.items() if not forest.nodes[key].new},
    )
    return paths


def revive(session: Session) -> int:
    """Make completed segments whose checkpoint was collected pending again where a wanted one needs their state.

    Their result stays what it was: the same bits come out again. How many.
    """
    planting(session)
    revived = 0
    while True:
        again = session.execute(
            text(f"""
                UPDATE segments parent SET state = 'pending', retry_at = NULL
                FROM segments WHERE segments.parent_key = parent.key AND segments.state = 'pending'
                    AND parent.state = 'completed' AND parent.checkpoint IS NULL AND {WANTED}
                    -- Asked once, and as a rule the end of it: no other segment is looked at then.
                    AND EXISTS (SELECT 1 FROM segments WHERE state = 'completed' AND checkpoint IS NULL)
                RETURNING parent.key
            """)
        ).all()
        if not again:
            return revived
        revived += len(again)


def _known(session: Session, keys: Sequence[str]) -> dict[str, Node]:
    """The segments of these keys that the ledger has, and all their ancestors, locked against being claimed."""
    rows = session.execute(
        text("""
            WITH RECURSIVE way AS (
                SELECT key, parent_key FROM segments WHERE key = ANY(:keys)
                UNION
                SELECT parent.key, parent.parent_key FROM segments parent JOIN way ON way.parent_key = parent.key
            )
            SELECT key, parent_key, start_step, end_step, flops, state, progress_step IS NOT NULL AS begun
            FROM segments WHERE key IN (SELECT key FROM way) FOR UPDATE
        """),
        {"keys": list(keys)},
    )
    return {row.key: Node(**row._mapping, new=False) for row in rows}


def _insert(session: Session, new: Iterable[tuple[Node, Mapping[str, Any]]], attempts: int) -> None:
    placed = ("key", "parent_key", "start_step", "end_step", "flops")
    given = ("program", "data_path", "priority")
    copy(
        session,
        "segments",
        (*placed, *given, "state", "attempts_left"),
        (
            (
                *(getattr(node, name) for name in placed),
                *(segment[name] for name in given),
                SegmentState.pending.value,
                attempts,
            )
            for node, segment in new
        ),
    )


def _move(session: Session, moved: Sequence[Node]) -> None:
    """Cut pending segments later than before, and rewrite the paths of the runs that go through them."""
    for node in moved:
        session.execute(
            text("""
                UPDATE segments SET parent_key = :parent_key, start_step = :start_step, flops = :flops
                WHERE key = :key
            """),
            {
                "key": node.key,
                "parent_key": node.parent_key,
                "start_step": node.start_step,
                "flops": node.flops,
            },
        )
    if not moved:
        return
    session.execute(
        text("""
            WITH RECURSIVE affected AS (
                SELECT DISTINCT run_id FROM run_segments WHERE segment_key = ANY(:keys)
            ), way AS (
                SELECT runs.id AS run_id, tip_key AS key, 0 AS back FROM runs JOIN affected ON run_id = runs.id
                UNION ALL
                SELECT run_id, segments.parent_key, back + 1 FROM way JOIN segments USING (key)
                WHERE segments.parent_key IS NOT NULL
            )
            INSERT INTO run_segments (run_id, position, segment_key)
            SELECT run_id, max(back) OVER (PARTITION BY run_id) - back, key FROM way
            ON CONFLICT (run_id, position) DO UPDATE SET segment_key = excluded.segment_key
        """),
        {"keys": [node.key for node in moved]},
    )


def _renew(session: Session, needed: list[str], attempts: int, priorities: Mapping[str, int]) -> None:
    """A new budget for those of the ledger's segments that had failed, and the urgency that the new plan gives them."""
    session.execute(
        text("""
            UPDATE segments SET state = 'pending', attempts_left = :attempts, retry_at = NULL
            WHERE key = ANY(:keys) AND state = 'failed'
        """),
        {"keys": needed, "attempts": attempts},
    )
    session.execute(
        text("""
            UPDATE segments SET priority = given.priority
            FROM (SELECT key, value::bigint AS priority FROM jsonb_each_text(CAST(:priorities AS jsonb))) given
            WHERE segments.key = given.key AND segments.state = 'pending'
                AND segments.priority < given.priority
        """),
        {"priorities": json.dumps(priorities)},
    )
