"""Server-sent events: what changed, in order, and again after a lost connection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

import fitter.service
from fitter.service.events import Event, Position, Snapshot, changes
from fitter.service.problem_kinds import KINDS
from ledger.models import Sweep
from tests.service import grid

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@contextmanager
def listening(served: str, last: str | None = None) -> Iterator[Iterator[tuple[str, str, dict[str, object]]]]:
    """(event, id, data) as they come."""
    headers = {"Last-Event-ID": last} if last else {}
    address = f"{served}/v1/sweeps/grid/events"
    with httpx.stream("GET", address, headers=headers, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")

        def events() -> Iterator[tuple[str, str, dict[str, object]]]:
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    yield fields["event"], fields["id"], json.loads(fields["data"])
                    fields = {}

        yield events()


def test_a_listener_hears_of_runs_and_laws_as_they_come(served: str, sweep: Sweep, session: Session) -> None:
    with listening(served) as events:
        kind, _, progress = next(events)
        assert (kind, progress["runs"]["completed"]) == ("progress", 0)  # type: ignore[index]
        grid.complete(session, sweep, {"nonzero_params": 1e6, "sparsity": 0.5})
        heard = [next(events) for _ in range(4)]
        assert [kind for kind, _, _ in heard] == ["run", "run", "run", "progress"]
        grid.store_law(session, sweep)
        kind, _, law = next(events)
        assert (kind, law["version"]) == ("law", 1)


def test_a_client_that_comes_back_gets_what_it_missed(served: str, sweep: Sweep, session: Session) -> None:
    with listening(served) as events:
        _, last, _ = next(events)
    grid.complete(session, sweep, {"nonzero_params": 4e6})
    grid.store_law(session, sweep)
    with listening(served, last) as events:
        heard = [next(events) for _ in range(14)]
    assert [kind for kind, _, _ in heard] == ["run"] * 12 + ["law", "progress"]
    assert len({data["position"] for kind, _, data in heard if kind == "run"}) == 12


def test_a_position_survives_its_own_text() -> None:
    position = Position(3, EPOCH + timedelta(microseconds=17), "0123456789abcdef")
    assert Position.parse(str(position)) == position


@given(st.text(max_size=60))
def test_no_event_id_breaks_the_stream(text: str) -> None:
    parsed = Position.parse(text)
    assert parsed is None or Position.parse(str(parsed)) is not None


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(0, 12))
def test_wherever_the_connection_breaks_every_run_is_told(seconds: list[int], broke: int) -> None:
    runs = [(EPOCH + timedelta(seconds=at), number, str(number)) for number, at in enumerate(sorted(seconds))]
    told: list[Event] = []
    position = Position(0, datetime.fromtimestamp(1, UTC), "")
    early = Snapshot("{}", "a", [(1, "{}")], runs[:broke])
    late = Snapshot("{}", "b", [(1, "{}"), (2, "{}")], runs)
    told += changes(position, early, set())
    if told:
        position = Position.parse(str(told[-1].position)) or position
    told += changes(position, late, set())  # another connection, which remembers nothing
    assert {event.data for event in told if event.kind == "run"} == {data for _, _, data in runs}
    assert [event.position.version for event in told if event.kind == "law"] == [1, 2]
    assert [event.kind for event in told].count("progress") == 2


def test_every_kind_of_problem_is_explained() -> None:
    source = "\n".join(path.read_text() for path in Path(fitter.service.__file__).parent.rglob("*.py"))
    used = set(re.findall(r"Problem\(\s*\d{3},\s*\"([a-z-]+)\"", source))
    assert len(used) > 20
    assert used <= set(KINDS)
