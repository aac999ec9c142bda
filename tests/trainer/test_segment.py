"""Segments are exact: resumed, branched, in another process, stopped and continued, a run has one result."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import Recorder, checksums, shared_prefix
from trainer import checkpoint, course
from trainer.data import Prepared
from trainer.errors import CheckpointError, DataError, Diverged, Stopped
from trainer.metrics import NoSink
from trainer.program import (
    DataStream,
    LearningRate,
    Program,
    ProgramError,
    Pruning,
    first_update,
)
from trainer.pruning.mask import keep_count
from trainer.result import SegmentResult
from trainer.run import Run
from trainer.segment import train_segment

Make = Callable[..., Program]


def train(
    program: Program, start: int, end: int, prepared: Prepared, output: Path, **options: object
) -> SegmentResult:
    arguments = {"parent": None, "sink": NoSink(), **options}
    return train_segment(program, start, end, data=prepared.path, output=str(output), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pruned(program: Make) -> Program:
    return program(steps=24, sparsity=0.75)


@pytest.fixture(scope="module")
def alone(pruned: Program, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> SegmentResult:
    """The pruned program trained in one go."""
    return train(pruned, 0, 24, prepared, tmp_path_factory.mktemp("alone"))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 23), min_size=1, max_size=4))
def test_however_a_run_is_cut_the_state_is_the_same(
    cuts: set[int],
    pruned: Program,
    alone: SegmentResult,
    prepared: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    output, parent, begin = tmp_path_factory.mktemp("cut"), None, 0
    for end in [*sorted(cuts), 24]:
        result = train(pruned, begin, end, prepared, output, parent=parent)
        parent, begin = result.checkpoint, end
    assert result.loss == alone.loss
    assert checksums(result.checkpoint) == checksums(alone.checkpoint)


def test_a_storage_that_takes_nothing_for_a_while_costs_nothing(
    pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "FIRST_PAUSE_SECONDS", 0.01)
    folder, refused = tmp_path / "mount", []
    folder.write_text("a file where the folder should be")

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            refused.append(record.getMessage())
            if "trying again" in record.getMessage() and folder.is_file():
                folder.unlink()  # there is room again

    watching = Watching()
    course.log.addHandler(watching)
    try:
        result = train(pruned, 0, 24, prepared, folder / "out", checkpoint_every=10)
    finally:
        course.log.removeHandler(watching)
    assert [line.partition(":")[0] for line in refused][:2] == [
        "no checkpoint at step 10, going on",
        "no checkpoint at step 20, going on",
    ]
    assert checksums(result.checkpoint) == checksums(alone.checkpoint)


def test_the_last_state_that_was_noted_is_kept(pruned: Program, prepared: Prepared, tmp_path: Path) -> None:
    """Whoever notes them may be out of reach: others would go on from what was noted last."""

    def note(url: str, step: int) -> bool:
        return step <= 8

    train(pruned, 0, 24, prepared, tmp_path, checkpoint_every=4, on_checkpoint=note)
    assert {path.name for path in tmp_path.iterdir()} == {"step-8", "step-16", "step-20", "step-24"}


def test_a_storage_that_takes_nothing_is_told_in_the_end(
    pruned: Program, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "PATIENCE_SECONDS", 0.0)
    (tmp_path / "mount").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="mount"):
        train(pruned, 0, 24, prepared, tmp_path / "mount" / "out")


def test_a_branch_from_a_dense_trunk_equals_the_run_alone(
    program: Make, pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path
) -> None:
    dense = program(steps=40)
    fork = first_update(pruned.pruning)
    assert shared_prefix(dense, pruned) == fork
    trunk = train(dense, 0, fork, prepared, tmp_path / "trunk")
    branch = train(pruned, fork, 24, prepared, tmp_path / "branch", parent=trunk.checkpoint)
    for name in ("run_flops", "run_sparse_flops", "run_density"):
        assert getattr(branch, name) == getattr(alone, name), (
            "the record is the run's, whoever trained its trunk"
        )
    assert branch.flops < alone.flops
    assert trunk.mask_bytes_per_weight == trunk.mask_ms == 0
    assert branch.loss == alone.loss
    assert checksums(branch.checkpoint) == checksums(alone.checkpoint)


def test_a_stop_writes_the_state_and_the_rest_is_the_same(
    pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path
) -> None:
    asked = iter(range(100))
    with pytest.raises(Stopped) as stopped:
        train(pruned, 0, 24, prepared, tmp_path, should_stop=lambda: next(asked) == 13)
    assert stopped.value.step == 13
    assert stopped.value.checkpoint == checkpoint.url_of(str(tmp_path), 13)
    told: list[tuple[str, int]] = []
    result = train(
        pruned,
        0,
        24,
        prepared,
        tmp_path,
        resume_from=stopped.value.checkpoint,
        on_checkpoint=lambda url, step: told.append((url, step)),
    )
    assert told == [(result.checkpoint, 24)]
    assert result.loss == alone.loss
    assert checksums(result.checkpoint) == checksums(alone.checkpoint)


def test_the_newest_intact_state_of_a_folder_is_resumed(
    pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path
) -> None:
    asked = iter(range(100))
    with pytest.raises(Stopped):
        train(pruned, 0, 24, prepared, tmp_path, checkpoint_every=5, should_stop=lambda: next(asked) == 17)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-15", "step-17"]
    for damaged in ("step-17", "step-15"):
        weights = tmp_path / damaged / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])
    for resume_from in (tmp_path, tmp_path / "step-17", tmp_path / "step-16"):
        recorder = Recorder()
        output, source = tmp_path / "again" / resume_from.name, str(resume_from)
        result = train(pruned, 0, 24, prepared, output, resume_from=source, sink=recorder, log_every=1)
        assert min(recorder.values("loss")) == 11
        assert result.loss == alone.loss
    shutil.rmtree(tmp_path / "step-10")
    with pytest.raises(CheckpointError, match=r"step-17/weights\.safetensors is torn"):
        train(pruned, 0, 24, prepared, tmp_path / "last", resume_from=str(tmp_path / "step-17"))
    with pytest.raises(CheckpointError, match="is at step 24, outside this segment's 0 to 12"):
        train(pruned, 0, 12, prepared, tmp_path / "last", resume_from=alone.checkpoint)


def test_intermediate_states_do_not_pile_up(pruned: Program, prepared: Prepared, tmp_path: Path) -> None:
    train(pruned, 0, 24, prepared, tmp_path, checkpoint_every=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-18", "step-21", "step-24"]


def test_resuming_from_an_empty_folder_begins_at_the_start(
    pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path
) -> None:
    assert train(pruned, 0, 24, prepared, tmp_path, resume_from=str(tmp_path / "none")).loss == alone.loss


def test_a_number_of_threads_set_by_others_changes_no_bit(
    pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path
) -> None:
    torch.set_num_threads(2)
    result = train(pruned, 0, 24, prepared, tmp_path)
    assert torch.get_num_threads() == 1, "the trainer sets its own"
    assert result.loss == alone.loss
    assert checksums(result.checkpoint) == checksums(alone.checkpoint)


def test_the_target_is_hit_exactly_and_layer_by_layer(pruned: Program, alone: SegmentResult) -> None:
    narrow = 1 - math.sqrt(1 - 0.75)
    for name, (kept, size) in alone.per_layer.items():
        target = narrow if name in ("shared.weight", "lm_head.weight") else 0.75
        assert kept == keep_count(size, target), name
    assert alone.dense_params == 12 * 8 * 8 + 6 * 8 * 16
    assert alone.nonzero_params == sum(
        kept for name, (kept, _) in alone.per_layer.items() if name not in ("shared.weight", "lm_head.weight")
    )
    assert alone.sparsity_reached == pytest.approx(0.75, abs=0.01)
    assert not any("relative_attention_bias" in name for name in alone.per_layer)


def test_the_record_adds_up(pruned: Program, alone: SegmentResult, prepared: Prepared, program: Make) -> None:
    assert alone.tokens == 24 * 4 * 24
    assert alone.flops == 6 * alone.dense_params * alone.tokens
    assert alone.sparse_flops == pytest.approx(alone.flops * alone.average_density)
    # Dense to 25 %, the cubic's mean 1 − 0.75·S, then 1 − S: RECIPE section 2, up to the coarse updates.
    assert alone.average_density == pytest.approx(0.25 + 0.5 * (1 - 0.75 * 0.75) + 0.25 * 0.25, abs=0.04)
    assert alone.run_density == alone.average_density, "this segment is the whole run"
    assert alone.mask_updates == 7
    assert alone.mask_ms == pytest.approx(1e3 * alone.mask_seconds / 7)
    weights = sum(size for _, size in alone.per_layer.values())
    assert alone.mask_bytes_per_weight == pytest.approx(1 / 8, rel=0.01)
    file = Path(alone.checkpoint, "masks.safetensors").stat().st_size
    assert 0 < file - weights / 8 < 150 * len(alone.per_layer), "one bit a weight, and the names"
    assert alone.mask_seconds > 0
    assert json.loads(json.dumps(alone.to_dict()))["loss"] == alone.loss


def test_points_name_the_steps_done_and_follow_the_schedule(
    pruned: Program, alone: SegmentResult, prepared: Prepared, tmp_path: Path
) -> None:
    recorder = Recorder()
    train(pruned, 0, 24, prepared, tmp_path, sink=recorder, log_every=5, evaluate_every=8)
    assert list(recorder.values("loss")) == [5, 10, 15, 20, 24]
    assert list(recorder.values("validation_loss")) == [8, 16, 24]
    assert recorder.values("validation_loss")[24] == alone.loss
    assert recorder.values("learning_rate")[20] == pytest.approx(0.3 / math.sqrt(19))
    assert recorder.values("sparsity")[5] == 0
    assert recorder.values("sparsity")[24] == pytest.approx(alone.sparsity_reached)
    names = {name for _, name, _ in recorder.points}
    assert names == {
        *("loss", "validation_loss", "learning_rate", "sparsity", "steps_per_second", "tokens_per_second")
    }
    assert all(math.isfinite(value) for _, _, value in recorder.points)


def test_training_learns(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    recorder = Recorder()
    train(program(steps=120), 0, 120, prepared, tmp_path, sink=recorder, evaluate_every=20)
    losses = recorder.values("validation_loss")
    assert losses[120] < losses[20] - 0.3
    assert losses[120] < math.log(384) / 2


def test_pruned_weights_stay_zero_while_their_moments_live_on(pruned: Program, alone: SegmentResult) -> None:
    state = checkpoint.load(alone.checkpoint, pruned)
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert (state.weights[name][~state.masks[name]] == 0).all()
    assert (state.moments[f"v/{name}"] > 0).all()


def test_a_hopeless_learning_rate_ends_as_diverged(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    wild = program(steps=20, learning_rate=LearningRate(base=1e6, warmup=10))
    with pytest.raises(Diverged) as diverged:
        train(wild, 0, 20, prepared, tmp_path)
    assert 0 < diverged.value.step <= 20
    assert not list(tmp_path.iterdir()), "a diverged run leaves no state that could be taken for a result"


@pytest.mark.parametrize("lost", [math.nan, 4.01 * math.log(384)])
def test_a_loss_beyond_four_times_that_of_guessing_is_caught_at_its_step(
    lost: float, program: Make, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, bad = Run.advance, 3.99 * math.log(384)
    monkeypatch.setattr(Run, "advance", lambda run: lost if whole(run) and run.step == 4 else bad)
    with pytest.raises(Diverged, match=f"loss {lost} after step 4"):
        train(program(steps=20), 0, 20, prepared, tmp_path)


def test_no_state_with_a_weight_that_is_no_number_is_written(
    program: Make, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.advance

    def spoiled(run: Run) -> torch.Tensor:
        loss = whole(run)
        if run.step == 2:
            run._parameters.views["shared.weight"][2, 0] = math.nan  # of an id that no text has
        return loss

    monkeypatch.setattr(Run, "advance", spoiled)
    with pytest.raises(Diverged) as diverged:
        train(program(steps=2), 0, 2, prepared, tmp_path)
    assert math.isfinite(diverged.value.loss)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("start", "end", "parent"), [(5, 5, "x"), (0, 25, None), (5, 10, None), (0, 5, "x")])
def test_a_bad_range_is_refused(
    start: int, end: int, parent: str | None, pruned: Program, prepared: Prepared, tmp_path: Path
) -> None:
    with pytest.raises(ProgramError):
        train(pruned, start, end, prepared, tmp_path, parent=parent)


def test_data_of_another_vocabulary_are_refused(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    base = program(steps=4).to_dict()
    small = Program.from_dict({**base, "shape": {**base["shape"], "vocab_size": 200}})
    with pytest.raises(DataError, match=r"has 384 ids, the model's vocab_size is 200"):
        train(small, 0, 4, prepared, tmp_path)


def test_a_pruning_end_that_is_never_reached_cannot_be_planned() -> None:
    with pytest.raises(ProgramError, match="never be reached"):
        Program(
            family="t5",
            shape={},
            data=DataStream(digest=""),
            batch_size=1,
            steps=100,
            learning_rate=LearningRate(),
            pruning=Pruning(sparsity=0.5, start=10, end=55, every=10),
        )
