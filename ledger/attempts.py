"""Attempts: who carries out a segment, and what became of it.

An attempt's id is its fencing token. Every write of a worker names it and is refused with `Fenced` unless that
attempt is the running one, of which an index allows but one a segment. So a worker that was given up, and went on,
changes nothing: neither here nor in the checkpoint's path, which carries the id too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ledger import channels
from ledger.errors import Fenced
from ledger.models import Attempt, AttemptEnd, AttemptState, RunSegment
from ledger.segments import READY, WANTED
from ledger.sweeps import finish_if_over

#: Seconds without a heartbeat after which an attempt counts as lost.
LEASE_SECONDS = 15.0

#: Seconds before the first repetition of a failed attempt; doubled for each further one.
BACKOFF_SECONDS = 1.0

#: Deaths in a row of one segment's workers, none of which left a checkpoint or came further than one before, from which
#: on each costs the segment's budget, as a failure does: who is preempted so often is killed by the segment itself.
FRUITLESS_DEATHS = 10

#: Longest reason kept, in characters: the error, and the last lines of the log.
REASON_LENGTH = 4000


class Verdict(StrEnum):
    """What a heartbeat tells the worker."""

    go_on = "go on"
    stop = "stop"  # at the next checkpoint: paused, cancelled, or the controller shuts down
    fenced = "fenced"  # at once: the segment is no longer yours


@dataclass(frozen=True)
class Claim:
    """A segment in hand: all that its worker needs to know."""

    attempt_id: int
    segment_key: str
    program: dict[str, Any]
    start_step: int
    end_step: int
    data_path: str
    parent_checkpoint: str | None
    resume_from: str | None
    """Checkpoint inside the segment that an earlier attempt left, and its step."""
    resume_step: int | None
    execution: dict[str, Any]
    """The spec's `execution` of the newest active sweep that needs the segment."""
    alone: bool
    """It failed, or killed its worker: it is trained in no pack."""
    memory_kills: int
    """Its workers that were killed for their memory."""


def claim(session: Session, segment_key: str, controller: str, worker: str) -> Claim | None:
    """Take a segment; None when it is not to be had: taken, done, not ready, no longer wanted, or the controller is
    told to stop (a worker of short segments would otherwise walk on through them all between two heartbeats).

    `worker` is "host:process id".
    """
    segment = session.execute(
        text(f"""
            SELECT key, program, start_step, end_step, data_path, progress_checkpoint, progress_step,
                (SELECT checkpoint FROM segments parent WHERE parent.key = segments.parent_key) AS parent_checkpoint,
                retry_at IS NOT NULL AS held_back,
                (SELECT count(*) FROM attempts WHERE segment_key = key AND attempts.state = 'lost'
                    AND kind = 'memory') AS memory_kills,
                (SELECT spec -> 'execution' FROM sweeps JOIN runs ON sweep_id = sweeps.id
                    JOIN run_segments ON run_id = runs.id
                    WHERE segment_key = segments.key AND sweeps.state = 'active'
                    ORDER BY sweeps.id DESC LIMIT 1) AS execution
            FROM segments WHERE key = :key AND {READY} AND {WANTED}
                AND NOT EXISTS (SELECT 1 FROM controllers WHERE id = :controller AND stopping)
            FOR UPDATE SKIP LOCKED
        """),
        {"key": segment_key, "controller": controller},
    ).one_or_none()
    if segment is None:
        return None
    attempt_id = session.scalar(
        text("""
            WITH taken AS (UPDATE segments SET state = 'running', retry_at = NULL WHERE key = :key)
            INSERT INTO attempts (segment_key, controller, worker, state, started_step, step)
            VALUES (:key, :controller, :worker, 'running', :step, :step) RETURNING id
        """),
        {
            "key": segment_key,
            "controller": controller,
            "worker": worker,
            "step": segment.progress_step or segment.start_step,
        },
    )
    assert attempt_id is not None
    return Claim(
        attempt_id=attempt_id,
        segment_key=segment.key,
        program=segment.program,
        start_step=segment.start_step,
        end_step=segment.end_step,
        data_path=segment.data_path,
        parent_checkpoint=segment.parent_checkpoint,
        resume_from=segment.progress_checkpoint,
        resume_step=segment.progress_step,
        execution=segment.execution or {},
        alone=segment.held_back or segment.memory_kills > 0,
        memory_kills=segment.memory_kills,
    )


def heartbeat(session: Session, attempt_id: int, *, step: int, loss: float | None) -> Verdict:
    """Prolong the lease, say how far it is, and hear whether to go on."""
    wanted = session.scalar(
        text(f"""
            UPDATE attempts SET heartbeat_at = now(), step = :step, loss = coalesce(:loss, loss)
            WHERE id = :id AND state = 'running'
            RETURNING NOT EXISTS (SELECT 1 FROM controllers WHERE controllers.id = controller AND stopping)
                AND EXISTS (SELECT 1 FROM segments WHERE key = segment_key AND {WANTED})
        """),
        {"id": attempt_id, "step": step, "loss": loss},
    )
    if wanted is None:
        return Verdict.fenced
    return Verdict.go_on if wanted else Verdict.stop


def progress_checkpoint(session: Session, attempt_id: int, step: int, checkpoint: str) -> None:
    """Note a state inside the segment from which another attempt may go on. Raises Fenced."""
    key = hold(session, attempt_id)
    session.execute(
        text("UPDATE segments SET progress_checkpoint = :checkpoint, progress_step = :step WHERE key = :key"),
        {"key": key, "checkpoint": checkpoint, "step": step},
    )


def complete(session: Session, attempt_id: int, result: Mapping[str, Any], checkpoint: str) -> None:
    """The segment is done: its children can start, and the runs whose tip it is have `result["loss"]`.

    Raises Fenced.
    """
    key = _end(session, attempt_id, AttemptState.completed, kind=None, reason=None, step=int(result["step"]))
    document = json.dumps(dict(result))
    session.execute(
        text("""
            UPDATE segments SET state = 'completed', checkpoint = :checkpoint, completed_at = now(),
                result = CAST(:result AS jsonb), progress_checkpoint = NULL, progress_step = NULL, retry_at = NULL
            WHERE key = :key
        """),
        {"key": key, "checkpoint": checkpoint, "result": document},
    )
    _end_runs(
        session,
        """
            UPDATE runs SET state = 'completed', completed_at = now(), reason = NULL,
                result = CAST(:result AS jsonb), loss = :loss
            WHERE tip_key = :key AND state <> 'completed' RETURNING sweep_id
        """,
        {"key": key, "result": document, "loss": result["loss"]},
        "SELECT sweep_id FROM runs WHERE tip_key = :key",
    )


def stop(session: Session, attempt_id: int, reason: str) -> None:
    """The attempt ended at a checkpoint because it was told to; the segment waits to be taken up. Raises Fenced."""
    key = _end(session, attempt_id, AttemptState.stopped, kind=AttemptEnd.stopped, reason=reason)
    session.execute(text("UPDATE segments SET state = 'pending' WHERE key = :key"), {"key": key})


def fail(session: Session, attempt_id: int, kind: AttemptEnd, reason: str) -> None:
    """The attempt raised. Tried again after a pause that doubles each time, until the budget is spent: then the
    segment has failed, and with it the runs that need it. Raises Fenced.

    After a failure of kind `checkpoint` the next attempt starts at the segment's beginning: what it would have gone
    on from may be the torn one.
    """
    key = _end(session, attempt_id, AttemptState.failed, kind=kind, reason=reason)
    session.execute(
        text("""
            UPDATE segments SET state = 'pending',
                progress_checkpoint = CASE WHEN :afresh THEN NULL ELSE progress_checkpoint END,
                progress_step = CASE WHEN :afresh THEN NULL ELSE progress_step END,
                retry_at = now() + make_interval(secs => :backoff * 2 ^ least(8, (
                    SELECT count(*) - 1 FROM attempts WHERE segment_key = :key AND attempts.state = 'failed')))
            WHERE key = :key
        """),
        {"key": key, "backoff": BACKOFF_SECONDS, "afresh": kind is AttemptEnd.checkpoint},
    )
    _spend(session, key, f"({kind}): {reason}")


def lose(session: Session, attempt_id: int, reason: str, kind: AttemptEnd = AttemptEnd.preempted) -> bool:
    """The attempt's worker is gone; its segment is free again, at no cost to its budget. False: it had ended.

    A segment whose workers die one after the other, and none leaves a checkpoint or comes further than one before,
    waits longer each time, up to a minute: others go first. From the FRUITLESS_DEATHS-th on each costs its budget.
    """
    lost = _lose(session, "id = :id", {"id": attempt_id}, kind, reason)
    for key in lost:
        deaths = _fruitless_deaths(session, key)
        if deaths > 1:
            session.execute(
                text("""
                    UPDATE segments SET retry_at = now() + make_interval(secs => least(60,
                        2 ^ least(:deaths - 1, 6) - 1)) WHERE key = :key
                """),
                {"key": key, "deaths": deaths},
            )
        if deaths >= FRUITLESS_DEATHS:
            _spend(
                session,
                key,
                f"({kind}): {deaths} workers in a row died, none left a checkpoint or came further than one before; "
                f"a smaller execution.checkpoint_every, or a pool that keeps its nodes or has more memory, would be "
                f"right. The last: {reason}",
            )
    return bool(lost)


def killed_for_memory(session: Session, segment_key: str, attempt_id: int, reason: str) -> None:
    """The worker of this attempt at that segment was killed for its memory: what it holds is free again, and if its
    death was taken for preemption, it is so no more. One that ended otherwise, or that the ledger does not know, stays
    as it is."""
    known = select(Attempt.id).where(Attempt.id == attempt_id, Attempt.segment_key == segment_key)
    if session.scalar(known) is None or lose(session, attempt_id, reason, AttemptEnd.memory):
        return
    session.execute(
        text("""
            UPDATE attempts SET kind = 'memory', reason = :reason
            WHERE id = :id AND state = 'lost' AND kind IN ('preempted', 'fenced')
        """),
        {"id": attempt_id, "reason": _kept(reason)},
    )


def give_up(session: Session, sweep_ids: Sequence[int], reason: str) -> bool:
    """Nobody can carry these sweeps out: their pending runs fail, as long as none of their segments is being trained.
    The segments stay as they are, for other sweeps and for `sweeps.retry`. Whether it was done."""
    busy = text("""
        SELECT EXISTS (SELECT 1 FROM segments JOIN run_segments ON segment_key = key JOIN runs ON runs.id = run_id
            WHERE segments.state = 'running' AND sweep_id = ANY(:sweeps))
    """)
    if session.scalar(busy, {"sweeps": list(sweep_ids)}):
        return False
    _end_runs(
        session,
        """
            UPDATE runs SET state = 'failed', reason = :reason, completed_at = now()
            WHERE state = 'pending' AND sweep_id = ANY(:sweeps) RETURNING sweep_id
        """,
        {"sweeps": list(sweep_ids), "reason": _kept(reason)},
        "SELECT unnest(CAST(:sweeps AS bigint[]))",
    )
    return True


def last_words(session: Session, segment_key: str, attempt_id: int, log: str) -> None:
    """The last log lines of an attempt whose worker is dead join its reason, however that was found out, before it is
    or after. One that ended otherwise stays as it is."""
    session.execute(
        text("""
            UPDATE attempts SET
                reason = concat_ws(E'\\n', left(reason, :half), 'last log lines:', right(CAST(:log AS text), :half))
            WHERE id = :id AND segment_key = :key AND state IN ('running', 'lost')
        """),
        {"id": attempt_id, "key": segment_key, "log": _storable(log), "half": REASON_LENGTH // 2},
    )


def diverge(session: Session, attempt_id: int, reason: str) -> None:
    """The loss ran away: the segment and every run behind it end as diverged, and are not tried again.

    Raises Fenced.
    """
    key = _end(session, attempt_id, AttemptState.diverged, kind=AttemptEnd.divergence, reason=reason)
    session.execute(text("UPDATE segments SET state = 'diverged' WHERE key = :key"), {"key": key})
    _end_runs_behind(session, key, "diverged", f"segment {key[:12]}: {reason}")


def fence_off(session: Session, controller: str) -> int:
    """A new controller's first act: whatever other controllers had handed out counts as lost, and the workers that
    they left behind take up nothing more. How many were lost."""
    session.execute(
        text(
            "UPDATE controllers SET stopping = true WHERE id <> :controller AND NOT stopping AND ended_at IS NULL"
        ),
        {"controller": controller},
    )
    taken = _lose(
        session,
        "controller <> :controller",
        {"controller": controller},
        AttemptEnd.fenced,
        f"controller {controller} took over",
    )
    return len(taken)


def expire(session: Session, *, lease_seconds: float = LEASE_SECONDS) -> int:
    """Give up the attempts whose last heartbeat is older than the lease, or far ahead, the database's clock having been
    set back since. How many."""
    silent = session.scalars(
        text("""
            SELECT id FROM attempts
            WHERE state = 'running' AND abs(extract(epoch FROM now() - heartbeat_at)) > :lease ORDER BY id
            FOR UPDATE
        """),
        {"lease": lease_seconds},
    ).all()
    reason = f"no heartbeat for {lease_seconds:g} s: the worker was killed or cannot reach the ledger"
    return sum(lose(session, attempt_id, reason) for attempt_id in silent)


def _fruitless_deaths(session: Session, key: str) -> int:
    """How many of the segment's last workers died where it stands now, since one came further than those before it."""
    return int(
        session.scalar(
            text("""
                WITH dead AS (
                    SELECT id, step FROM attempts JOIN segments ON segments.key = segment_key
                    WHERE segments.key = :key AND attempts.state = 'lost' AND kind IN ('preempted', 'memory')
                        AND started_step = coalesce(progress_step, start_step)
                )
                SELECT count(*) FROM dead
                WHERE id >= (SELECT id FROM dead ORDER BY step DESC, id LIMIT 1)
            """),
            {"key": key},
        )
        or 0
    )


def _spend(session: Session, key: str, reason: str) -> None:
    """Take one from the segment's budget of attempts; when it is spent, segment and runs behind it have failed."""
    left = session.scalar(
        text("""
            UPDATE segments SET attempts_left = attempts_left - 1,
                state = CASE WHEN attempts_left <= 1 THEN 'failed' ELSE state END
            WHERE key = :key RETURNING attempts_left
        """),
        {"key": key},
    )
    if left is not None and left <= 0:
        _end_runs_behind(session, key, "failed", f"segment {key[:12]} failed {reason}")


def hold(session: Session, attempt_id: int) -> str:
    """The key of the attempt's segment, with the attempt held running until the transaction ends. Raises Fenced."""
    key: str | None = session.scalar(
        text("SELECT segment_key FROM attempts WHERE id = :id AND state = 'running' FOR SHARE"),
        {"id": attempt_id},
    )
    if key is None:
        raise Fenced(f"attempt {attempt_id} no longer holds its segment")
    return key


def _end(
    session: Session,
    attempt_id: int,
    state: AttemptState,
    *,
    kind: AttemptEnd | None,
    reason: str | None,
    step: int | None = None,
) -> str:
    key: str | None = session.scalar(
        text("""
            UPDATE attempts SET state = :state, kind = :kind, reason = :reason, ended_at = now(),
                step = coalesce(:step, step)
            WHERE id = :id AND state = 'running' RETURNING segment_key
        """),
        {
            "id": attempt_id,
            "step": step,
            "state": state.value,
            "kind": None if kind is None else kind.value,
            "reason": None if reason is None else _kept(reason),
        },
    )
    if key is None:
        raise Fenced(f"attempt {attempt_id} no longer holds its segment")
    return key


def _lose(
    session: Session, condition: str, parameters: Mapping[str, object], kind: AttemptEnd, reason: str
) -> list[str]:
    """End these running attempts as lost; the keys of their segments, which wait now."""
    lost = session.scalars(
        text(f"""
            WITH lost AS (
                UPDATE attempts SET state = 'lost', kind = :kind, ended_at = now(),
                    reason = concat_ws(E'\\n', CAST(:reason AS text), reason)  -- its last log lines may be there
                WHERE state = 'running' AND {condition} RETURNING segment_key
            )
            UPDATE segments SET state = 'pending' FROM lost
            WHERE segments.key = lost.segment_key AND segments.state = 'running' RETURNING segments.key
        """),
        {**parameters, "kind": kind.value, "reason": _kept(reason)},
    )
    return list(lost)


def _kept(reason: str) -> str:
    """What is kept of a reason: where it is too long, its beginning, which says what happened, and its end."""
    told = _storable(reason)
    if len(told) <= REASON_LENGTH:
        return told
    half = REASON_LENGTH // 2 - 2
    return f"{told[:half]}\n…\n{told[-half:]}"


def _storable(text: str) -> str:
    """Without what Postgres takes in no text. Messages and logs may hold anything: a log whose machine lost its power
    ends in zeros."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _end_runs_behind(session: Session, key: str, state: str, reason: str) -> None:
    _end_runs(
        session,
        """
            UPDATE runs SET state = :state, reason = :reason, completed_at = now()
            WHERE state = 'pending' AND id IN (SELECT run_id FROM run_segments WHERE segment_key = :key)
            RETURNING sweep_id
        """,
        {"key": key, "state": state, "reason": _kept(reason)},
        "SELECT sweep_id FROM runs JOIN run_segments ON run_id = runs.id WHERE segment_key = :key",
    )


def _end_runs(session: Session, update: str, parameters: Mapping[str, object], sweeps: str) -> None:
    """Run an update of runs that returns their sweep ids; finish the sweeps that it ends, and tell the fitter."""
    # Locked first and in order: of two last runs that end at once, the second must see the first.
    session.execute(text(f"SELECT id FROM sweeps WHERE id IN ({sweeps}) ORDER BY id FOR UPDATE"), parameters)
    ended = {row.sweep_id for row in session.execute(text(update), parameters)}
    if not ended:
        return
    finish_if_over(session, sorted(ended))
    session.execute(
        text("SELECT pg_notify(:channel, name) FROM sweeps WHERE id = ANY(:ids)"),
        {"channel": channels.RUNS, "ids": sorted(ended)},
    )


def first_start(session: Session, run_id: int) -> datetime | None:
    """When the first attempt on a run's path began; None before that."""
    return session.scalar(
        select(func.min(Attempt.started_at))
        .join(RunSegment, RunSegment.segment_key == Attempt.segment_key)
        .where(RunSegment.run_id == run_id)
    )
