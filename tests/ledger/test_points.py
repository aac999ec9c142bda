from __future__ import annotations

import math

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import attempts, points
from ledger.errors import Fenced
from ledger.models import Run
from tests.ledger.forests import plant, result


def claim(session: Session, key: str) -> int:
    taken = attempts.claim(session, key, "c", "host:1")
    assert taken is not None
    return taken.attempt_id


def test_inserting_points_again_changes_nothing(session: Session) -> None:
    plant(session)
    attempt = claim(session, "trunk")
    assert points.insert(session, attempt, "trunk", [(10, "loss", 3.0), (20, "loss", 2.5)]) == 2
    assert points.insert(session, attempt, "trunk", [(20, "loss", 9.9), (30, "loss", 2.0)]) == 1
    run_id = session.scalar(select(Run.id).where(Run.tip_key == "half"))
    assert run_id is not None
    assert [(point.step, point.value) for point in points.of_run(session, run_id)] == [
        (10, 3.0),
        (20, 2.5),
        (30, 2.0),
    ]


def test_a_runs_history_has_its_trunks_points(session: Session) -> None:
    plant(session)
    trunk = claim(session, "trunk")
    points.insert(session, trunk, "trunk", [(50, "loss", 3.0)])
    attempts.complete(session, trunk, result(50), "/t")
    half, most = claim(session, "half"), claim(session, "most")
    points.insert(session, half, "half", [(100, "loss", 2.0), (100, "sparsity", 0.5)])
    points.insert(session, most, "most", [(100, "loss", 2.2)])
    run_id = session.scalar(select(Run.id).where(Run.tip_key == "half"))
    assert run_id is not None
    history = [point[:3] for point in points.of_run(session, run_id)]
    assert history == [(50, "loss", 3.0), (100, "loss", 2.0), (100, "sparsity", 0.5)]
    assert [point.step for point in points.of_run(session, run_id, after_step=50, names=["loss"])] == [100]


def test_points_of_another_segment_are_refused(session: Session) -> None:
    plant(session)
    with pytest.raises(Fenced):
        points.insert(session, claim(session, "trunk"), "half", [(1, "loss", 1.0)])


def test_values_that_are_no_numbers_are_kept(session: Session) -> None:
    plant(session)
    attempt = claim(session, "trunk")
    points.insert(session, attempt, "trunk", [(1, "loss", math.nan), (2, "loss", math.inf)])
    run_id = session.scalar(select(Run.id))
    assert run_id is not None
    first, second = points.of_run(session, run_id)
    assert math.isnan(first.value)
    assert second.value == math.inf
