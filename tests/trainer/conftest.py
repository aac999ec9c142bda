"""A small real corpus and programs that train in milliseconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.data import DataSource, Prepared, prepare
from trainer.optim.update import Update
from trainer.program import DataStream, LearningRate, Program, Pruning
from trainer.shapes import shape_for

#: Family → options of a model of two layers, and its objective.
TINY: dict[str, tuple[dict[str, int], str]] = {
    "t5": (
        {"d_model": 8, "heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 1},
        "span-corruption",
    ),
    "decoder": ({"d_model": 8, "heads": 2, "d_ff": 16, "layers": 2}, "causal"),
    "encoder": ({"d_model": 8, "heads": 2, "d_ff": 32, "layers": 2, "positions": 24}, "masked"),
    "vit": (
        {
            **{"d_model": 8, "heads": 2, "d_ff": 32, "layers": 2},
            **{"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10},
        },
        "image-classification",
    ),
}


class Recorder:
    """Keeps every point; `values` gives one metric as step → value."""

    def __init__(self) -> None:
        self.points: list[tuple[int, str, float]] = []

    def point(self, step: int, name: str, value: float) -> None:
        self.points.append((step, name, value))

    def values(self, name: str) -> dict[int, float]:
        return {step: value for step, found, value in self.points if found == name}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files of code, the same on every machine, one of them not UTF-8."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(7)
    words = [f"name_{index}" for index in range(50)] + ["def", "return", "for", "in", "if", "else", "import"]
    for index in range(40):
        lines = [" ".join(draw.choice(words, size=6)) for _ in range(60)]
        (folder / f"module_{index}.py").write_text("\n".join(lines))
    (folder / "latin.py").write_bytes("# café\n".encode("latin-1") * 50)
    return folder


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The corpus at byte level, a fifth held out."""
    source = DataSource(source=str(corpus), validation_share=0.2)
    return prepare(source, tmp_path_factory.mktemp("home") / "data")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """scikit-learn's pictures of digits, 8 × 8."""
    return prepare(DataSource(source="digits", validation_share=0.2), tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def program(prepared: Prepared) -> Callable[..., Program]:
    """Makes tiny programs: `program(steps=…, sparsity=…, …)`; other arguments go to Program. digest: of the data, where
    they are not the corpus."""

    def make(steps: int = 24, sparsity: float = 0.0, every: int = 2, **options: Any) -> Program:
        pruning = options.pop("pruning", None)
        if pruning is None:
            pruning = Pruning(
                sparsity=sparsity, start=steps // 4, end=steps * 3 // 4 // every * every, every=every
            )
        family = options.pop("family", "t5")
        digest = options.pop("digest", prepared.digest)
        model, objective = TINY[family]
        model = model if family == "vit" else {**model, "vocab_size": 384}
        return Program(
            family=family,
            shape=shape_for(family, 12 * 64 * 2, model).dims,
            data=DataStream(digest=digest, objective=objective, sequence_length=24, evaluation_batches=2),
            batch_size=4,
            steps=steps,
            pruning=pruning,
            **{"learning_rate": LearningRate(base=0.3, warmup=10), **options},
        )

    return make


def step_of(optimizer: Update, gradient: Tensor, rate: float, step: int) -> None:
    """A step of one model alone; gradient: [size]."""
    optimizer.move(gradient[None], torch.tensor([optimizer.numbers(rate, step)], dtype=torch.float32))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def checksums(url: str) -> dict[str, str]:
    """SHA-256 of each safetensors file of a checkpoint."""
    return {
        name: hashlib.sha256(Path(url, name).read_bytes()).hexdigest()
        for name in sorted(os.listdir(url))
        if name.endswith(".safetensors")
    }


def shared_prefix(a: Program, b: Program) -> int:
    """The number of steps after which two programs are still in the same state."""
    steps = range(1, min(a.steps, b.steps) + 1)
    return max((step for step in steps if a.key_at(step) == b.key_at(step)), default=0)
