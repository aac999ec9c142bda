"""Checkpoints: whole or refused, with the file and the reason, on any fsspec URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import checksums
from trainer import checkpoint, storage
from trainer.checkpoint import State
from trainer.data import Prepared
from trainer.errors import CheckpointError
from trainer.metrics import NoSink
from trainer.program import Program
from trainer.segment import train_segment

Make = Callable[..., Program]


@pytest.fixture
def state() -> State:
    draw = np.random.default_rng(0)
    return State(
        3,
        {"a": draw.normal(size=(5, 3)).astype(np.float32)},
        {"v/a": draw.random((5, 3)).astype(np.float32)},
        {"a": draw.random((5, 3)) < 0.5},
    )


def test_what_is_saved_is_what_is_loaded(program: Make, state: State, tmp_path: Path) -> None:
    url = str(tmp_path / "step-3")
    checkpoint.save(url, program(), state)
    loaded = checkpoint.load(url, program(), 3)
    for one, two in zip(
        (state.weights, state.moments, state.masks),
        (loaded.weights, loaded.moments, loaded.masks),
        strict=True,
    ):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"], "nothing is left aside"


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 2**32))
def test_masks_take_one_bit_a_weight(shape: list[int], seed: int) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.5
    packed = np.packbits(mask.reshape(-1))
    assert packed.size == -(-mask.size // 8)
    assert np.array_equal(np.unpackbits(packed, count=mask.size).astype(bool).reshape(shape), mask)


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_torn_or_altered_file_is_refused_by_name(
    name: str, program: Make, state: State, tmp_path: Path
) -> None:
    url = str(tmp_path / "step-3")
    checkpoint.save(url, program(), state)
    file = Path(url, name)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"{name} is torn: {len(content) - 1} bytes"):
        checkpoint.load(url, program())
    flipped = bytearray(content)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(CheckpointError, match=f"{name} was altered: its SHA-256"):
        checkpoint.load(url, program())
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        checkpoint.load(url, program())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "is torn: it is no valid JSON"),
        (lambda text: "[]", "states no format"),
        (
            lambda text: json.dumps({**json.loads(text), "format": 99}),
            "format 99, this version reads up to 1",
        ),
        (
            lambda text: json.dumps({**json.loads(text), "step": "3"}),
            "'step' is missing or of the wrong kind",
        ),
        (lambda text: json.dumps({**json.loads(text), "key": "0" * 64}), "written by another program"),
        (lambda text: json.dumps({**json.loads(text), "step": 4}), "written by another program"),
        (lambda text: json.dumps({**json.loads(text), "step": 999}), "written by another program"),
        (lambda text: json.dumps({**json.loads(text), "files": {}}), "does not list weights.safetensors"),
        (lambda text: json.dumps({**json.loads(text), "masks": {"b": [2]}}), "holds no mask of shape"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_reason(
    change: Callable[[str], str], said: str, program: Make, state: State, tmp_path: Path
) -> None:
    url = str(tmp_path / "step-3")
    checkpoint.save(url, program(), state)
    manifest = Path(url, "manifest.json")
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(url, program())


def test_foreign_programs_and_steps_are_refused(program: Make, state: State, tmp_path: Path) -> None:
    url = str(tmp_path / "step-3")
    checkpoint.save(url, program(), state)
    with pytest.raises(CheckpointError, match="written by another program"):
        checkpoint.load(url, program(seed=1))
    with pytest.raises(CheckpointError, match="at step 3, the one at step 4 is needed"):
        checkpoint.load(url, program(), 4)
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing: .* is no checkpoint"):
        checkpoint.load(str(tmp_path / "step-4"), program())
    # Up to their first mask update these are one and the same.
    assert checkpoint.load(url, program(steps=40, sparsity=0.5)).step == 3


def test_a_state_of_another_shape_is_refused(
    program: Make, state: State, prepared: Prepared, tmp_path: Path
) -> None:
    url = str(tmp_path / "step-3")
    checkpoint.save(url, program(), state)
    with pytest.raises(CheckpointError, match=r"has shared.weight of shape None, \(384, 8\) is needed"):
        train_segment(program(), 3, 5, data=prepared.path, parent=url, output=str(tmp_path), sink=NoSink())


def test_publishing_again_replaces_a_damaged_folder(program: Make, state: State, tmp_path: Path) -> None:
    url = str(tmp_path / "step-3")
    checkpoint.save(url, program(), state)
    before = checksums(url)
    Path(url, "weights.safetensors").write_bytes(b"")
    checkpoint.save(url, program(), state)
    assert checksums(url) == before
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_a_crash_while_writing_publishes_nothing(
    program: Make, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(storage.os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(str(tmp_path / "step-3"), program(), state)
    assert list(tmp_path.iterdir()) == []


def test_any_fsspec_url_works(program: Make, prepared: Prepared) -> None:
    chosen = program(steps=6)
    base = "memory://checkpoint-test"
    first = train_segment(
        chosen, 0, 3, data=prepared.path, parent=None, output=f"{base}/one", sink=NoSink(), checkpoint_every=1
    )
    assert first.checkpoint == f"{base}/one/step-3"
    assert storage.names(f"{base}/one") == ["step-1", "step-2", "step-3"]
    second = train_segment(
        chosen, 3, 6, data=prepared.path, parent=first.checkpoint, output=f"{base}/two", sink=NoSink()
    )
    found = checkpoint.latest(f"{base}/two", chosen)
    assert found is not None
    assert found[0] == second.checkpoint
    storage.discard(f"{base}/two/step-6")
    assert checkpoint.latest(f"{base}/two", chosen) is None


def test_a_remote_folder_without_its_manifest_does_not_count(
    program: Make, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://torn-test/step-3"
    system, _ = storage._remote(url)
    written: list[str] = []
    write = system.pipe_file

    def and_fail(path: str, content: bytes) -> None:
        if len(written) == len(checkpoint.FILES):
            raise OSError("the last file does not get through")
        written.append(path)
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(system, "pipe_file", and_fail)
        with pytest.raises(OSError, match="last file"):
            checkpoint.save(url, program(), state)
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        checkpoint.load(url, program())
