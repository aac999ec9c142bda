"""What a GPU must show of each family: bits that come again, cut and resumed too, and packs. Skipped without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainer.data import Prepared
from trainer.devices import Device, device_for
from trainer.devices.cuda import Cuda
from trainer.pack import Pack
from trainer.program import LearningRate, Numerics, Optimizer, Program, Pruning
from trainer.run import Run

Make = Callable[..., Program]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

STEPS = 12

#: Each family, with an optimiser and a method: every kind of each that computes in ways of its own.
CASES: dict[str, tuple[Optimizer, dict[str, Any]]] = {
    "t5": (Optimizer(), {"method": "gmp", "start": 2, "end": 8}),
    "decoder": (Optimizer(factored=True), {"method": "rigl", "start": 0, "end": 8}),
    "encoder": (Optimizer(name="adamw", clip_norm=1.0, weight_decay=0.1), {"method": "ste", "end": 8}),
    "vit": (
        Optimizer(name="adafactor-vit", factored=True, weight_decay=0.03),
        {"method": "gmp", "pattern": "2:4", "start": 2, "end": 8},
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, program: Make, prepared: Prepared, digits: Prepared) -> Any:
    """A program in bf16 and its data."""
    optimizer, pruning = CASES[request.param]
    data = digits if request.param == "vit" else prepared
    chosen = program(
        STEPS,
        family=request.param,
        digest=data.digest,
        optimizer=optimizer,
        pruning=Pruning(sparsity=0.5, every=2, **pruning),
        learning_rate=LearningRate(base=0.02, warmup=4),
        numerics=Numerics(precision="bf16", device_type="cuda"),
    )
    return chosen, data


def same_state(first: Run, second: Run) -> None:
    one, other = first.state(), second.state()
    for kind in ("weights", "moments", "masks"):
        found, wanted = getattr(one, kind), getattr(other, kind)
        assert list(found) == list(wanted)
        for name, array in found.items():
            assert np.array_equal(array, wanted[name]), f"{kind} {name}"


def cut_and_resumed(chosen: Program, data: Prepared, device: Device) -> None:
    whole, begun = Run(chosen, data, device), Run(chosen, data, device)
    for _ in range(STEPS // 2):
        assert float(whole.advance()) == float(begun.advance())
    resumed = Run(chosen, data, device)
    resumed.load(begun.state(), "memory")
    for _ in range(STEPS // 2):
        assert float(whole.advance()) == float(resumed.advance())
    assert whole.evaluate() == resumed.evaluate()
    same_state(whole, resumed)
    assert not whole.pruner.missed()


def packed(chosen: Program, data: Prepared, device: Device) -> None:
    alone = [Run(dataclasses.replace(chosen, seed=seed), data, device) for seed in range(3)]
    pack = Pack([Run(run.program, data, device) for run in alone])
    for _ in range(STEPS):
        losses = [float(run.advance()) for run in alone]
        assert [float(loss) for loss in pack.advance()] == pytest.approx(losses, rel=2e-2)
    assert pack.evaluate() == pytest.approx([run.evaluate() for run in alone], rel=2e-2)
    for one, other in zip(alone, pack.runs, strict=True):
        assert one.counts() == other.counts()


def test_a_run_that_is_cut_and_resumed_has_the_bits_of_the_whole(case: Any) -> None:
    cut_and_resumed(*case, device_for("cuda"))


def test_a_pack_trains_each_member_as_it_is_trained_alone(case: Any) -> None:
    packed(*case, device_for("cuda"))


def test_recorded_as_graphs_too(program: Make, prepared: Prepared) -> None:
    chosen = program(STEPS, sparsity=0.5)
    graphs = Cuda(0, graphs=True)
    cut_and_resumed(chosen, prepared, graphs)
    packed(chosen, prepared, graphs)
