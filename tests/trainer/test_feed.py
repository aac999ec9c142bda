"""Repeats on purpose, and a switch of the source: part of the key where they count, exact over the border."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import checksums, shared_prefix
from trainer.data import DataSource, Prepared, prepare
from trainer.data.batches import Batches, training_rows
from trainer.data.feed import Feed
from trainer.errors import DataError
from trainer.metrics import NoSink
from trainer.packing import unlike
from trainer.program import Program, ProgramError, Pruning, Switch
from trainer.segment import train_segment

Make = Callable[..., Program]


@pytest.fixture(scope="module")
def second(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Another corpus, prepared beside the first."""
    folder = tmp_path_factory.mktemp("second")
    for index in range(60):
        (folder / f"{index}.txt").write_text(f"{index} the quick brown fox jumps over the lazy dog\n" * 20)
    return prepare(DataSource(source=str(folder), validation_share=0.3), prepared.path.parent)


def switched(chosen: Program, second: Prepared, at: int, **options: object) -> Program:
    data = dataclasses.replace(chosen.data, digest=second.digest, **options)  # type: ignore[arg-type]
    return dataclasses.replace(chosen, then=Switch(at=at, data=data))


def train(chosen: Program, start: int, end: int, prepared: Prepared, output: Path, parent: str | None = None):  # type: ignore[no-untyped-def]
    return train_segment(
        chosen, start, end, data=prepared.path, parent=parent, output=str(output), sink=NoSink()
    )


def test_a_subset_is_repeated_the_same_for_every_seed(program: Make, prepared: Prepared) -> None:
    stream = dataclasses.replace(program().data, unique=26 * 10)
    rows = {}
    for seed in (0, 1):
        batches = Batches(stream, prepared, batch_size=5, seed=seed)
        assert batches.epoch_batches == 2
        seen = []
        for index in range(6):
            places = batches._train.rows(np.arange(10, dtype=np.uint64))
            seen.append(batches.train(index)["inputs"])
        rows[seed] = {row.tobytes() for row in places}
        assert len(rows[seed]) == 10
        assert not np.array_equal(seen[0], seen[2]), "an epoch has another order, and other spans are hidden"
    assert rows[0] == rows[1]
    larger = Batches(dataclasses.replace(stream, unique=26 * 20), prepared, batch_size=5, seed=0)
    assert rows[0] < {row.tobytes() for row in larger._train.rows(np.arange(20, dtype=np.uint64))}
    assert training_rows(stream, prepared) == 10


def test_a_subset_is_part_of_the_key_and_must_fill_a_batch(program: Make, prepared: Prepared) -> None:
    chosen = program(steps=8)
    fewer = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, unique=260))
    assert chosen.key_at(1) != fewer.key_at(1)
    assert shared_prefix(chosen, fewer) == 0
    with pytest.raises(
        DataError, match=r"data.unique: 30 is 1 examples, a batch has 4: ask for more of them"
    ):
        Batches(dataclasses.replace(chosen.data, unique=30), prepared, batch_size=4, seed=0)


def test_repeats_are_counted_in_the_record(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    chosen = program(steps=8)
    fewer = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, unique=26 * 8))
    assert train(fewer, 0, 8, prepared, tmp_path / "a").repeats == 8 * 4 / 8
    assert train(chosen, 0, 8, prepared, tmp_path / "b").repeats < 1


def test_what_comes_before_a_switch_is_shared_with_all_that_begin_so(program: Make, second: Prepared) -> None:
    plain = program(steps=12)
    early, late = switched(plain, second, 4), switched(plain, second, 8)
    longer = dataclasses.replace(early, steps=20)
    assert shared_prefix(plain, early) == 4
    assert shared_prefix(early, late) == 4
    assert shared_prefix(early, longer) == 12
    assert early.key_at(4) == plain.key_at(4)
    assert early.key_at(5) != plain.key_at(5)
    assert Program.from_dict(early.to_dict()) == early
    assert Program.from_dict(plain.to_dict()) == plain


def test_batches_and_validation_follow_the_switch(
    program: Make, prepared: Prepared, second: Prepared
) -> None:
    chosen = switched(program(steps=12), second, 4)
    feed = Feed(chosen, prepared, second)
    first = Batches(chosen.data, prepared, batch_size=4, seed=0)
    assert chosen.then is not None
    then = Batches(chosen.then.data, second, batch_size=4, seed=0)
    for step in range(12):
        expected = first.train(step) if step < 4 else then.train(step - 4)
        assert np.array_equal(feed.train(step)["inputs"], expected["inputs"])
    assert np.array_equal(feed.validation(4, 1)["inputs"], first.validation(1)["inputs"])
    assert np.array_equal(feed.validation(5, 1)["inputs"], then.validation(1)["inputs"])
    assert feed.repeats(3) == 3 / first.epoch_batches
    assert feed.repeats(12) == max(4 / first.epoch_batches, 8 / then.epoch_batches)


def test_a_run_over_a_switch_is_exact_however_it_is_cut(
    program: Make, prepared: Prepared, second: Prepared, tmp_path: Path
) -> None:
    pruning = Pruning(sparsity=0.5, start=2, end=10, every=2)
    chosen = switched(program(steps=14, pruning=pruning), second, 6)
    alone = train(chosen, 0, 14, prepared, tmp_path / "alone")
    parent, at = None, 0
    for cut in (6, 9, 14):
        part = train(chosen, at, cut, prepared, tmp_path / "cut", parent)
        parent, at = part.checkpoint, cut
    assert part.loss == alone.loss
    assert checksums(part.checkpoint) == checksums(alone.checkpoint)
    trunk = train(dataclasses.replace(chosen, then=None), 0, 6, prepared, tmp_path / "trunk")
    branch = train(chosen, 6, 14, prepared, tmp_path / "branch", trunk.checkpoint)
    assert branch.loss == alone.loss
    assert alone.loss != train(dataclasses.replace(chosen, then=None), 0, 14, prepared, tmp_path / "not").loss


def test_a_switch_that_cannot_be_is_refused(program: Make, prepared: Prepared, second: Prepared) -> None:
    plain = program(steps=12)
    with pytest.raises(ProgramError, match="switch at step 12, which lies outside a run of 12 steps"):
        switched(plain, second, 12)
    with pytest.raises(ProgramError, match="differs in more than its source"):
        switched(plain, second, 4, sequence_length=48)
    rounds = program(steps=14, pruning=Pruning(method="imp", sparsity=0.5, start=2, end=10, every=4))
    with pytest.raises(ProgramError, match="imp goes back to an earlier step"):
        switched(rounds, second, 6)
    other = dataclasses.replace(second, tokenizer="transformers:other")
    with pytest.raises(DataError, match=r"data\.then is prepared with tokenizer 'transformers:other'"):
        Feed(switched(plain, second, 4), prepared, other)
    assert unlike(plain, switched(plain, second, 4)) == "they differ in then"
