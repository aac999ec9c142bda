"""A program: all that determines the result of a run, as plain data, comparable piece by piece over steps.

Two runs whose programs agree up to step k compute the same state up to step k. That is decided here, on data:
whatever stays the same for the whole run is `Program.static()`; whatever may change over steps (learning rate,
masks) is `Program.history()`, a list of pieces. The key of the state at step k is the SHA-256 of both, cut at k.

State, not stretch, is what a key names: the state at step 100 has one key, however the way to it was cut into
segments, so a later plan that branches at step 75 still finds the state at 100 done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from trainer.canonical import canonical_text, digest_of, key_of
from trainer.conditions import problems_of
from trainer.history import Piece, clipped, first_update, history_of, history_text
from trainer.parts import (
    OPTIMIZERS,
    PRECISIONS,
    DataStream,
    LearningRate,
    Numerics,
    Optimizer,
    ProgramError,
    Pruning,
    Start,
    Switch,
)

__all__ = [
    "OPTIMIZERS",
    "PRECISIONS",
    "DataStream",
    "LearningRate",
    "Numerics",
    "Optimizer",
    "Piece",
    "Program",
    "ProgramError",
    "Pruning",
    "Start",
    "Switch",
    "first_update",
    "key_of",
]

#: Part of every key: raised whenever the trainer's arithmetic changes, so that old results are not mistaken for new.
PROGRAM_FORMAT = 1


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
        problems = problems_of(self)
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
        return history_of(self.learning_rate, self.pruning, self.then, self.steps)

    def key_at(self, step: int) -> str:
        """SHA-256 (hex) of all that determines the state after `step` steps, 0 ≤ step ≤ steps."""
        if not 0 <= step <= self.steps:
            raise ProgramError(f"step {step} lies outside this program's 0 to {self.steps}")
        # What `key_of({"static": …, "history": …})` would hash, from texts that a large plan writes once each.
        history = ",".join(f"[{until},{does}]" for until, does in clipped(self.history_text(), step))
        return digest_of(f'{{"history":[{history}],"static":{self.static_text()}}}')

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
        return history_text(self.learning_rate, self.pruning, self.then, self.steps)


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
    return canonical_text(
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
