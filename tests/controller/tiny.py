"""A sweep small enough to train in a second or two, from its YAML, on real data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger.engine import open_ledger
from ledger.settings import Settings
from orchestrator.submit import submit_text

SPEC = """
name: {name}
model: {{family: t5, d_model: 16, heads: 2, d_ff: 32, encoder_layers: 1, decoder_layers: 1, shape_rule: linear}}
data: {{source: {text}, tokenizer: byte, sequence_length: 64, validation_share: 0.2, evaluation_batches: 2}}
grid:
  nonzero_params: {nonzero_params}
  sparsity: {sparsity}
  steps: {steps}
pruning: {{method: gmp, start: 0.25, end: 0.75, every: 5}}
training:
  batch_size: 4
  learning_rate: {{schedule: rsqrt, base: 0.25, warmup: 40}}
execution: {{checkpoint_every: {checkpoint_every}, log_every: 5, evaluate_every: 20, attempts: {attempts}}}
law: {{form: sparsity}}
"""


def spec_text(
    home: Path,
    name: str = "tiny",
    *,
    nonzero_params: str = "[4000]",
    sparsity: str = "[0, 0.5]",
    steps: str = "[20, 40]",
    checkpoint_every: int = 10,
    attempts: int = 3,
) -> str:
    """YAML of a sweep of T5s with a few thousand parameters; its data are this project's own test files."""
    return SPEC.format(
        name=name,
        text=corpus(home),
        nonzero_params=nonzero_params,
        sparsity=sparsity,
        steps=steps,
        checkpoint_every=checkpoint_every,
        attempts=attempts,
    )


def corpus(home: Path) -> Path:
    """A folder of texts, the same in every home."""
    folder = home / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(30):
        lines = [
            f"The {index}th text says {word} {index * step} times."
            for step, word in enumerate("abcdefghij" * 8)
        ]
        (folder / f"{index}.txt").write_text("\n".join(lines))
    return folder


def submit(settings: Settings, name: str = "tiny", **options: Any) -> None:
    """Prepare, plan and store the sweep."""
    engine = open_ledger(settings)
    submit_text(settings, engine, spec_text(settings.home, name, **options))
    engine.dispose()


def losses(rows: list[dict[str, Any]]) -> Mapping[str, float]:
    """Name of each run → its loss."""
    return {row["name"]: row["loss"] for row in rows}
