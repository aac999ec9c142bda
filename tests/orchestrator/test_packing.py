"""Which segments of a plan would be trained as one, and when that pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.plan import plan as planning
from orchestrator.plan.forest import PlannedSegment
from orchestrator.plan.packing import packing
from orchestrator.plan.speeds import SpeedBook
from orchestrator.spec import load_spec_file
from trainer.packing import Speed, best_size, gain, likeness, unlike

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


@pytest.fixture(scope="module")
def segments() -> list[PlannedSegment]:
    return planning.build(load_spec_file(QUICKSTART)).segments


def speeds(*seconds: float, memory: int = 0) -> dict[int, Speed]:
    """Measured at sizes 1, 2, 4, …"""
    return {2**i: Speed(2**i, value, memory * 2**i) for i, value in enumerate(seconds)}


def test_the_smallest_size_near_the_best_is_taken_and_none_where_none_pays() -> None:
    assert best_size(speeds(10, 12, 16, 32), 8) == 4
    assert best_size(speeds(10, 12, 16, 32), 3) == 3
    assert best_size(speeds(10, 19.8, 39.4), 4) == 1
    assert best_size(speeds(10), 4) == 1
    assert best_size({}, 4) == 1


def test_a_pack_leaves_memory_to_others() -> None:
    assert best_size(speeds(10, 12, 16, memory=100), 4, memory=1000) == 4
    assert best_size(speeds(10, 12, 16, memory=100), 4, memory=300) == 2
    assert best_size(speeds(10, 12, 16, memory=100), 4, memory=100) == 1


def test_gains_lie_on_the_line_between_measured_sizes() -> None:
    assert gain(speeds(10, 12, 16), 2) == pytest.approx(20 / 12)
    assert gain(speeds(10, 12, 16), 3) == pytest.approx(30 / 14)
    assert gain(speeds(10, 12, 16), 1) == 1.0


def test_the_quickstarts_packs_hold_siblings_and_each_segment_once(segments: list[PlannedSegment]) -> None:
    found = packing(segments, "auto", None)
    by_key = {segment.key: segment for segment in segments}
    keys = [key for pack in found.packs for key in pack.keys]
    assert len(keys) == len(set(keys)) == found.segments > 0
    for pack in found.packs:
        first, *others = (by_key[key] for key in pack.keys)
        assert others
        for other in others:
            assert unlike(first.program, other.program) is None
            assert (first.start, first.end) == (other.start, other.end)
            assert likeness(first.program) == likeness(other.program)
        assert pack.gain > 1.05
        assert not pack.measured
    assert 1.0 < found.gain < 2.0


def test_packing_is_off_or_bounded_as_the_spec_says(segments: list[PlannedSegment]) -> None:
    off = packing(segments, 1, None)
    assert (off.packs, off.gain) == ((), 1.0)
    assert max(len(pack.keys) for pack in packing(segments, 2, None).packs) == 2


def test_what_was_measured_counts_before_the_model(segments: list[PlannedSegment], tmp_path: Path) -> None:
    book = SpeedBook(tmp_path)
    for kind in {likeness(segment.program) for segment in segments}:
        book.record("a processor", kind, speeds(10, 19.9, 39.9).values())
    assert packing(segments, "auto", book).packs == ()
    kind = likeness(segments[0].program)
    assert book.find("a processor", kind) == speeds(10, 19.9, 39.9)
    assert book.find("another", kind) == {}
    (tmp_path / "pack-speeds.json").write_text("{torn")
    assert book.find("a processor", kind) == {}
