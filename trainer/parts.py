"""The parts of a program, as plain data: each a flat mapping of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: What `Optimizer.name` may say → moments it keeps, in float32 numbers a weight.
OPTIMIZERS: Mapping[str, int] = {"adafactor": 1, "adafactor-vit": 2, "adamw": 2}

#: What `Numerics.precision` may say.
PRECISIONS = ("float32", "bf16")

#: The objective of families that read images; all others read text.
OF_IMAGES = "image-classification"

#: Options of an optimiser that not every one has → those that have it.
OPTIONS_OF: Mapping[str, tuple[str, ...]] = {
    "factored": ("adafactor", "adafactor-vit"),
    "weight_decay": ("adafactor-vit", "adamw"),
}


class ProgramError(ValueError):
    """A program that no run could carry out, with what would be right."""


@dataclass(frozen=True, kw_only=True)
class DataStream:
    """The batches of a run: batch i is a pure function of (this value, seed, i).

    `digest` is the SHA-256 of the prepared arrays (from the manifest), never a path: a result does not depend on
    where the data lay.
    """

    digest: str
    objective: str = "span-corruption"
    sequence_length: int = 512
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    evaluation_batches: int = 20
    evaluation_batch_size: int = 0  # 0: the training batch size
    unique: int = 0  # train on a fixed subset of so many tokens or images, again and again; 0: on all
    random_flip: bool = False  # images: mirrored left to right, every second one
    crop_padding: int = 0  # images: padded by so many black pixels on each side, then cropped at random


@dataclass(frozen=True, kw_only=True)
class Switch:
    """From step `at` on the run is trained, and measured, on `data`: fine-tuning after pre-training."""

    at: int
    data: DataStream


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights of step 0: of the seed, where the digest is empty, or of a checkpoint with this digest.

    `url` says where it lay when the plan was made. It is no part of any key: a result depends on weights, not places.
    """

    digest: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimiser and its constants. Defaults: the paper's sparsity-aware AdaFactor (RECIPE: training)."""

    name: str = "adafactor"
    decay_exponent: float = 0.8
    clip_rms: float = 1.0
    epsilon: float = 1e-30
    minimum_scale: float = 1e-3
    factored: bool = False
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # 0: none


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Relative step size over steps. `rsqrt`: base / sqrt(max(step, warmup)), the paper's, free of the horizon."""

    schedule: str = "rsqrt"
    base: float = 1.0
    warmup: int = 10_000
    cooldown: int = 0  # last steps over which rsqrt falls linearly to zero; 0: none
    linear_warmup: bool = (
        False  # rsqrt rises linearly over the warm-up (the paper's ViT); else it is level (T5)
    )


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How and when weights are masked. `start`, `end` and `every` are in steps; `end` must be reached exactly."""

    method: str = "gmp"
    pattern: str = "unstructured"
    distribution: str = "uniform"
    sparsity: float = 0.0
    start: int = 0
    end: int = 0
    every: int = 100


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """All that changes the last bits of a result."""

    precision: str = "float32"
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    micro_batch: int = 0  # examples of one forward pass; 0: the whole batch
    device_type: str = "cpu"
    torch_version: str = ""  # major.minor; filled in by the planner
