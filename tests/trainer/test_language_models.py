"""Both language models besides T5: exact segments, and they learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import Recorder, checksums
from trainer.data import Prepared
from trainer.metrics import NoSink
from trainer.program import Program, Pruning
from trainer.segment import train_segment

Make = Callable[..., Program]


@pytest.mark.parametrize(
    ("family", "pattern"),
    [(family, pattern) for family in ("decoder", "encoder") for pattern in ("unstructured", "2:4")]
    + [("encoder", "channel")],
)
def test_segments_are_exact(
    family: str, pattern: str, program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    chosen = program(
        family=family,
        steps=20,
        pruning=Pruning(sparsity=0.5, pattern=pattern, start=4, end=16, every=4),
    )
    arguments = {"data": prepared.path, "sink": NoSink()}
    alone = train_segment(chosen, 0, 20, parent=None, output=str(tmp_path / "a"), **arguments)
    half = train_segment(chosen, 0, 9, parent=None, output=str(tmp_path / "b"), **arguments)
    rest = train_segment(chosen, 9, 20, parent=half.checkpoint, output=str(tmp_path / "b"), **arguments)
    assert rest.loss == alone.loss
    assert checksums(rest.checkpoint) == checksums(alone.checkpoint)
    assert rest.nonzero_params == rest.dense_params // 2
    assert not any("position" in name or "token_type" in name for name in rest.per_layer)


@pytest.mark.parametrize(
    ("family", "steps", "every", "gained", "reached"),
    [("decoder", 120, 20, 0.2, 3.2), ("encoder", 150, 30, 0.1, 3.5)],
)
def test_it_learns(
    family: str,
    steps: int,
    every: int,
    gained: float,
    reached: float,
    program: Make,
    prepared: Prepared,
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    train_segment(
        program(family=family, steps=steps),
        0,
        steps,
        data=prepared.path,
        parent=None,
        output=str(tmp_path),
        sink=recorder,
        evaluate_every=every,
    )
    losses = recorder.values("validation_loss")
    assert losses[steps] < losses[every] - gained
    assert losses[steps] < reached
