"""A program: all that determines the result of a run, as plain data, comparable piece by piece over steps.

Two runs whose programs agree up to step k compute the same state up to step k. That is decided here, on data:
whatever stays the same for the whole run is `Program.static()`; whatever may change over steps (learning rate,
masks) is `Program.history()`, a list of pieces. The key of the state at step k is the SHA-256 of both, cut at k.

State, not stretch, is what a key names: the state at step 100 has one key, however the way to it was cut into
segments, so a later plan that branches at step 75 still finds the state at 100 done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from trainer.families import FAMILIES, rules

#: What `Optimizer.name` and `Numerics.precision` may say.
OPTIMIZERS = ("adafactor", "adamw")
PRECISIONS = ("float32", "bf16")

#: Part of every key: raised whenever the trainer's arithmetic changes, so that old results are not mistaken for new.
PROGRAM_FORMAT = 1


class ProgramError(ValueError):
    """A program that no run could carry out, with what would be right."""


class Piece(NamedTuple):
    """What the run does on steps before `until` (exclusive; steps count from 0), after the piece before it."""

    until: int
    does: Mapping[str, Any]


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


@dataclass(frozen=True, kw_only=True)
class Program:
    """One run of the grid, whole. Immutable, JSON-ready by `to_dict`, hashed by `key_at`."""

    family: str
    shape: Mapping[str, int]
    data: DataStream
    batch_size: int
    steps: int
    seed: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    learning_rate: LearningRate = field(default_factory=LearningRate)
    pruning: Pruning = field(default_factory=Pruning)
    start: Start = field(default_factory=Start)
    numerics: Numerics = field(default_factory=Numerics)
    then: Switch | None = None

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ProgramError("; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        # The parts are flat: their fields are plain values. (`asdict` copies deeply, at ten times the cost.)
        parts = {"data", "optimizer", "learning_rate", "pruning", "start", "numerics"}
        fields = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        value = {name: dict(vars(part)) if name in parts else part for name, part in fields}
        then = self.then and {"at": self.then.at, "data": dict(vars(self.then.data))}
        return {**value, "shape": dict(self.shape), "then": then}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Program:
        """The inverse of `to_dict`."""
        parts = dict(value)
        for name, kind in (
            ("data", DataStream),
            ("optimizer", Optimizer),
            ("learning_rate", LearningRate),
            ("pruning", Pruning),
            ("start", Start),
            ("numerics", Numerics),
        ):
            parts[name] = kind(**parts.get(name, {}))
        if (then := parts.get("then")) is not None:
            parts["then"] = Switch(at=then["at"], data=DataStream(**then["data"]))
        return cls(**parts)

    def static(self) -> dict[str, Any]:
        """What stays the same over all steps of the run."""
        value: dict[str, Any] = json.loads(self.static_text())
        return value

    def history(self) -> list[Piece]:
        """What the run does over [0, steps), in maximal pieces; equal pieces mean equal arithmetic."""
        return _history(self.learning_rate, self.pruning, self.then, self.steps)

    def key_at(self, step: int) -> str:
        """SHA-256 (hex) of all that determines the state after `step` steps, 0 ≤ step ≤ steps."""
        if not 0 <= step <= self.steps:
            raise ProgramError(f"step {step} lies outside this program's 0 to {self.steps}")
        # What `key_of({"static": …, "history": …})` would hash, from texts that a large plan writes once each.
        history = ",".join(f"[{until},{does}]" for until, does in _clipped(self.history_text(), step))
        return _digest(f'{{"history":[{history}],"static":{self.static_text()}}}')

    def static_text(self) -> str:
        """`static()` in canonical form: equal texts, equal arithmetic."""
        return self._static_text

    def history_text(self) -> tuple[tuple[int, str], ...]:
        """`history()` with what each piece does in canonical form."""
        return self._history_text

    # A plan asks for both again and again, and what many programs share is written once.
    @cached_property
    def _static_text(self) -> str:
        constant = (name for name in self.__dataclass_fields__ if name not in _OVER_STEPS)
        return _static_text(
            shape=tuple(sorted(self.shape.items())), **{name: getattr(self, name) for name in constant}
        )

    @cached_property
    def _history_text(self) -> tuple[tuple[int, str], ...]:
        return _history_text(self.learning_rate, self.pruning, self.then, self.steps)


def shared_prefix(a: Program, b: Program) -> int:
    """The number of steps after which two programs are still in the same state."""
    if a.static_text() != b.static_text():
        return 0
    shared = 0
    left, right = a.history_text(), b.history_text()
    i = j = 0
    while i < len(left) and j < len(right) and left[i][1] == right[j][1]:
        shared = min(left[i][0], right[j][0])
        # Both advance where both end here; the shorter history may simply end.
        i, j = i + (left[i][0] == shared), j + (right[j][0] == shared)
    return shared


def key_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, shortest exact floats, 2.0 as 2.

    Raises ProgramError on NaN, infinities and anything that is not plain JSON.
    """
    return _digest(_canonical_text(value))


def _canonical_text(value: Any) -> str:
    return json.dumps(_canonical(value, "$"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


#: Fields whose effect may change over steps (all others stay the same for the whole run), and the one to be hashable.
_OVER_STEPS = frozenset({"steps", "learning_rate", "pruning", "then", "shape"})


@lru_cache(maxsize=4096)
def _static_text(
    *,
    shape: tuple[tuple[str, int], ...],
    family: str,
    data: DataStream,
    batch_size: int,
    seed: int,
    optimizer: Optimizer,
    start: Start,
    numerics: Numerics,
) -> str:
    return _canonical_text(
        {
            "format": PROGRAM_FORMAT,
            "family": family,
            "shape": dict(shape),
            "data": vars(data),
            "batch_size": batch_size,
            "seed": seed,
            "optimizer": vars(optimizer),
            "numerics": vars(numerics),
            **({"start": start.digest} if start.digest else {}),
        }
    )


def _history(rate: LearningRate, pruning: Pruning, then: Switch | None, steps: int) -> list[Piece]:
    from trainer.pruning.rounds import horizon

    end = horizon(pruning, steps)
    learning_rate = _learning_rate_pieces(rate, end)
    if end < steps:
        # Further rounds repeat the first one's rates; which steps of it, the mask's piece says.
        learning_rate.append(Piece(steps, {**dataclasses.asdict(rate), "horizon": end}))
    mask = _mask_pieces(pruning, steps)
    # The first stream is static; only what comes after a switch is said, so all else has the keys that it had.
    data = [Piece(steps, {})] if then is None else [Piece(then.at, {}), Piece(steps, _switched(then))]
    edges = sorted({piece.until for part in (learning_rate, mask, data) for piece in part})
    return _merged(
        [
            Piece(
                until,
                {"learning_rate": _at(learning_rate, until), "mask": _at(mask, until), **_at(data, until)},
            )
            for until in edges
        ]
    )


def _switched(then: Switch) -> dict[str, Any]:
    return {"data": dataclasses.asdict(then.data), "since": then.at}


@lru_cache(maxsize=4096)
def _history_text(
    rate: LearningRate, pruning: Pruning, then: Switch | None, steps: int
) -> tuple[tuple[int, str], ...]:
    pieces = _history(rate, pruning, then, steps)
    return tuple((piece.until, _canonical_text(piece.does)) for piece in pieces)


def _canonical(value: Any, path: str) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ProgramError(f"{path} is {value}: a key needs finite numbers")
        # 10 and 10.0 are one number to whoever wrote the spec.
        return int(value) if value == int(value) and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(name): _canonical(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise ProgramError(f"{path} is a {type(value).__name__}: a key is made of plain JSON values only")


def _learning_rate_pieces(rate: LearningRate, steps: int) -> list[Piece]:
    if rate.schedule == "constant":
        return [Piece(steps, {"schedule": "constant", "base": rate.base, "warmup": rate.warmup})]
    if rate.schedule == "rsqrt":
        plain = {"schedule": "rsqrt", "base": rate.base, "warmup": rate.warmup}
        if not rate.cooldown:
            return [Piece(steps, plain)]
        cooled = {**plain, "cooldown": rate.cooldown, "horizon": steps}
        return [Piece(steps - rate.cooldown, plain), Piece(steps, cooled)]
    # Cosine knows its horizon from the first step after the warm-up: nothing to share with another length.
    return [
        Piece(steps, {"schedule": rate.schedule, "base": rate.base, "warmup": rate.warmup, "horizon": steps})
    ]


def first_update(pruning: Pruning) -> int:
    """The first step that prunes: as a rule the first multiple of `every` that is at least `start`."""
    from trainer.pruning.methods import method_for

    return method_for(pruning.method).first(pruning)


def _mask_pieces(pruning: Pruning, steps: int) -> list[Piece]:
    dense: dict[str, Any] = {"method": "dense"}
    if pruning.sparsity == 0:
        return [Piece(steps, dense)]
    masked = dataclasses.asdict(pruning)
    begins = min(first_update(pruning), steps)
    return _merged([Piece(begins, dense), Piece(steps, masked)])


def _at(pieces: list[Piece], until: int) -> Mapping[str, Any]:
    return next(piece.does for piece in pieces if piece.until >= until)


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if piece.until <= (merged[-1].until if merged else 0):
            continue
        if merged and merged[-1].does == piece.does:
            merged[-1] = piece
        else:
            merged.append(piece)
    return merged


def _clipped(pieces: Iterable[tuple[int, str]], step: int) -> Iterator[tuple[int, str]]:
    """The pieces of the first `step` steps, the last of them cut there."""
    begin = 0
    for until, does in pieces:
        if begin >= step:
            return
        yield min(until, step), does
        begin = until


def _switch_problems(program: Program) -> list[str]:
    then = program.then
    if then is None:
        return []
    problems = []
    if not 0 < then.at < program.steps:
        problems.append(
            f"the data switch at step {then.at}, which lies outside a run of {program.steps} steps"
        )
    alike = dataclasses.replace(program.data, digest=then.data.digest, unique=then.data.unique)
    if alike != then.data:
        problems.append("data.then differs in more than its source: batches keep their form over a switch")
    from trainer.pruning.rounds import rewinds

    if rewinds(program.pruning):
        problems.append(f"{program.pruning.method} goes back to an earlier step: it cannot switch its data")
    return problems


def _problems(program: Program) -> list[str]:
    problems = []
    if program.steps < 1:
        problems.append(f"steps is {program.steps}: a run has at least one step")
    if program.batch_size < 1:
        problems.append(f"batch_size is {program.batch_size}: it must be at least 1")
    rate = program.learning_rate
    if rate.schedule not in ("rsqrt", "cosine", "constant"):
        problems.append(f"learning-rate schedule {rate.schedule!r} is unknown: use rsqrt, cosine or constant")
    if program.family in FAMILIES and program.data.objective not in rules(program.family).OBJECTIVES:
        trained = ", ".join(rules(program.family).OBJECTIVES)
        problems.append(f"{program.family} is trained by {trained}, not by {program.data.objective!r}")
    problems.extend(_switch_problems(program))
    if program.data.unique < 0 or program.data.crop_padding < 0:
        problems.append("data.unique and data.crop_padding are counts: use 0 for none")
    if program.family in FAMILIES and (length := rules(program.family).LENGTH) is not None:
        longest = program.shape.get(length, program.data.sequence_length)
        if program.data.sequence_length > longest:
            problems.append(
                f"sequence_length is {program.data.sequence_length}, and {length} of the {program.family} is "
                f"{longest}: raise model.{length} or shorten the sequences"
            )
    if program.optimizer.name not in OPTIMIZERS:
        problems.append(f"optimizer {program.optimizer.name!r} is unknown: use {', '.join(OPTIMIZERS)}")
    if program.optimizer.factored and program.optimizer.name != "adafactor":
        problems.append(f"{program.optimizer.name} has no factored second moments: set factored: false")
    micro = program.numerics.micro_batch
    if micro < 0 or (micro and program.batch_size % micro):
        problems.append(
            f"micro_batch is {micro}, which does not divide the batch of {program.batch_size}: "
            "take a divisor, or 0 for the whole batch at once"
        )
    if program.numerics.precision not in PRECISIONS:
        problems.append(f"precision {program.numerics.precision!r} is unknown: use {', '.join(PRECISIONS)}")
    if not 0 <= program.pruning.sparsity < 1:
        problems.append(f"sparsity is {program.pruning.sparsity}: it must lie in [0, 1)")
        return problems
    # Each method knows its own conditions; its rules speak of programs, so they come in here.
    from trainer.pruning.rounds import horizon
    from trainer.pruning.rules import problems as pruning_problems

    problems += (found := pruning_problems(program))
    length = program.steps if found else horizon(program.pruning, program.steps)
    if rate.cooldown and not 0 <= rate.cooldown < length:
        problems.append(f"a cooldown of {rate.cooldown} steps does not fit into {length}")
    return problems
