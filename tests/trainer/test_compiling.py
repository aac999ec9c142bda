"""A step compiles whole, once: what `torch.compile` says of it on a CPU, where graphs are captured but no kernels made.

The graphs are those of CUDA. `fullgraph` raises on what it cannot capture, `error_on_recompile` on a second capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.test_vit import program as vit
from trainer.data import DataSource, Prepared, prepare
from trainer.devices import Function
from trainer.devices.compiled import compiled
from trainer.devices.cpu import Cpu
from trainer.program import LearningRate, Numerics, Optimizer, Program, Pruning
from trainer.run import Run

Make = Callable[..., Program]

STEPS, UPDATE = 14, 3


class Compiled(Cpu):
    """A CPU that does to a step what a GPU does, short of making kernels."""

    def compile(self, function: Function) -> Function:
        return compiled(function, backend="aot_eager")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def check(program: Program, prepared: Prepared) -> None:
    there, here = Run(program, prepared, Compiled()), Run(program, prepared, Cpu())
    rates, levels = set(), set()
    for step in range(program.steps):
        # Warm: a dense step, one with the first masks, and one after them.
        warm = step > UPDATE + 1
        with torch._dynamo.config.patch(error_on_recompile=warm):
            rates.add(there.learning_rate())
            loss = float(there.advance())
        assert loss == pytest.approx(float(here.advance()), rel=1e-3)
        levels.add(there.pruner.density())
    counters = torch._dynamo.utils.counters
    # Else a recorded pass would copy every weight at every step.
    assert all(
        hasattr(weight, "_dynamo_static_input_type") for weight in there.parameters.parameters.values()
    )
    assert counters["stats"]["unique_graphs"] >= 1 + there.group.optimizer.compiles, (
        "the passes, the optimiser"
    )
    assert not counters["graph_break"]
    assert len(rates) > STEPS // 2
    assert len(levels) > 2
    assert not there.pruner.missed()


WINDOW: dict[str, Any] = {"sparsity": 0.5, "start": UPDATE, "end": 4 * UPDATE, "every": UPDATE}
RATE = LearningRate(base=0.01, warmup=2)


@pytest.mark.parametrize(
    ("family", "optimizer", "pruning", "numerics"),
    [
        ("t5", Optimizer(), {}, Numerics()),
        ("decoder", Optimizer(name="adamw", clip_norm=1.0, weight_decay=0.1), {"pattern": "2:4"}, Numerics()),
        ("encoder", Optimizer(factored=True), {"method": "ste"}, Numerics(precision="bf16", micro_batch=2)),
    ],
    ids=["t5", "decoder", "encoder"],
)
def test_a_step_is_compiled_whole_and_once(
    family: str,
    optimizer: Optimizer,
    pruning: dict[str, Any],
    numerics: Numerics,
    program: Make,
    prepared: Prepared,
) -> None:
    masks = Pruning(**WINDOW, **pruning)
    options = {"optimizer": optimizer, "pruning": masks, "numerics": numerics, "learning_rate": RATE}
    check(program(STEPS, family=family, **options), prepared)


def test_a_process_compiles_for_as_many_shapes_as_it_trains() -> None:
    def scaled(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
        # As a run's pass: one code for all, each with tensors and numbers of its own.
        return compiled(lambda values: values * by, backend="eager")

    for size in range(1, 20):
        assert float(scaled(size)(torch.ones(size)).sum()) == size**2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 19


def test_the_librarys_own_pass_is_compiled_whole_and_once(tmp_path: Path) -> None:
    digits = prepare(DataSource(source="digits", validation_share=0.2), tmp_path)
    check(vit(digits, STEPS, batch=4, pruning=Pruning(**WINDOW), learning_rate=RATE), digits)
