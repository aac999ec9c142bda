"""What is said to the ledger again and again, and what is not."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from ledger import attempts
from orchestrator.controller import lease
from orchestrator.controller.lease import Lease
from orchestrator.controller.patience import patiently
from orchestrator.tracking.spool import Spool
from tests.controller.watching import rows, until
from tests.ledger.forests import plant


def test_a_server_that_gave_its_place_away_is_asked_again(engine: Engine) -> None:
    tries = []

    def write() -> str:
        with engine.begin() as connection:
            tries.append(None)
            if len(tries) == 1:
                connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text("UPDATE controllers SET stopping = true"))
        return "written"

    assert patiently(write) == "written"
    assert len(tries) == 2


def test_what_the_driver_refuses_is_not_said_for_ever(engine: Engine) -> None:
    with pytest.raises(DataError, match="NUL"), engine.connect() as connection:
        patiently(lambda: connection.execute(text("SELECT :value"), {"value": "a\0b"}))


def test_a_lease_is_prolonged_again_once_there_is_a_connection(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The leases of a large pack share a pool, in which all may wait for an answer."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    narrow = create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with Session(engine) as session:
        plant(session)
        claim = attempts.claim(session, "trunk", "c", "host:1/1")
        session.commit()
    assert claim is not None
    taken = narrow.connect()
    with Lease(narrow, claim, Spool()):
        until(lambda: "no heartbeat" in caplog.text)
        [(before,)] = rows(engine, "SELECT heartbeat_at FROM attempts")
        taken.close()
        until(lambda: rows(engine, "SELECT 1 FROM attempts WHERE heartbeat_at > :before", before=before))
    narrow.dispose()


def test_what_a_fenced_attempt_had_measured_is_handed_in(engine: Engine) -> None:
    """Its successor may go on from a later state of it than the ledger knew of."""
    with Session(engine) as session:
        plant(session)
        claim = attempts.claim(session, "trunk", "c", "host:1/1")
        session.commit()
        assert claim is not None
        with Lease(engine, claim, Spool()) as held:
            for step in (1, 2, 3):
                held.spool.point(step, "loss", 1 / step)
            attempts.lose(session, claim.attempt_id, "taken for dead")
            session.commit()
            assert held.note_checkpoint("attempt-1/step-3", 3) is False
            assert rows(engine, "SELECT 1 FROM metric_points") == []
    assert rows(engine, "SELECT step FROM metric_points ORDER BY step") == [(1,), (2,), (3,)]
