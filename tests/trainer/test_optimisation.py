"""AdamW against torch's, learning-rate curves, clipping and bf16: each exact over a cut too."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.conftest import checksums, step_of
from trainer.data import Prepared
from trainer.devices import device_for
from trainer.flat import FlatParameters, StackedParameters
from trainer.metrics import NoSink
from trainer.optim import OPTIMIZERS, build
from trainer.program import OPTIMIZERS as MOMENTS
from trainer.program import LearningRate, Numerics, Optimizer, Program, ProgramError, Pruning
from trainer.run import Run
from trainer.schedule import learning_rate
from trainer.segment import train_segment

Make = Callable[..., Program]


def test_every_name_that_a_program_may_say_is_there_with_as_many_moments_as_plans_count() -> None:
    assert list(OPTIMIZERS) == list(MOMENTS)
    weights = StackedParameters([FlatParameters(nn.Linear(7, 5))])
    for name, moments in MOMENTS.items():
        assert len(build(Optimizer(name=name), weights).stacked()) == moments


def test_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(7, 5), nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    flat = FlatParameters(ours)
    optimizer = build(Optimizer(name="adamw", weight_decay=0.1), StackedParameters([flat]))
    reference = torch.optim.AdamW(
        [
            {"params": [theirs.weight], "weight_decay": 0.1},
            {"params": [theirs.bias], "weight_decay": 0.0},
        ],
        lr=1.0,
    )
    gradient = flat.zeros()
    for step in range(20):
        rate = 0.01 / (step + 1)
        for name, view in flat.view_of(gradient).items():
            # Down to where ε is what is left below the line.
            view.copy_(torch.randn(view.shape) * 10.0 ** -torch.randint(0, 9, view.shape))
            theirs.get_parameter(name).grad = view.clone()
        for group in reference.param_groups:
            group["lr"] = rate
        step_of(optimizer, gradient, rate, step)
        reference.step()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(flat.views[name], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_rsqrt_is_the_papers_and_free_of_the_horizon() -> None:
    rate = LearningRate(base=1.0, warmup=10_000)
    assert learning_rate(rate, 0, 10) == learning_rate(rate, 9_999, 250_000) == 0.01
    assert learning_rate(rate, 40_000, 250_000) == learning_rate(rate, 40_000, 1_000_000) == 0.005


def test_a_cooldown_falls_to_nothing_behind_a_shared_history() -> None:
    plain, cooled = LearningRate(base=1.0, warmup=10), LearningRate(base=1.0, warmup=10, cooldown=20)
    for step in range(81):
        assert learning_rate(cooled, step, 100) <= learning_rate(plain, step, 100)
    assert learning_rate(cooled, 79, 100) == learning_rate(plain, 79, 100)
    ratios = [learning_rate(cooled, step, 100) / learning_rate(plain, step, 100) for step in range(80, 100)]
    assert ratios == pytest.approx([(100 - step) / 21 for step in range(80, 100)])


def test_a_linear_warm_up_to_rsqrt_is_big_visions() -> None:
    rate = LearningRate(base=0.08, warmup=10_000, cooldown=50_000, linear_warmup=True)
    for step in (0, 4_999, 9_999, 10_000, 60_000, 169_999, 200_000, 219_999):
        # big_vision's rsqrt: 8e-4 · √(timescale / step) behind the warm-up, of which step s is (s + 1)/warmup.
        wanted = 8e-4 * min(1.0, (step + 1) / 10_000) * math.sqrt(10_000 / max(step, 10_000))
        wanted *= min(1.0, (220_000 - step) / 50_001)
        assert learning_rate(rate, step, 220_000) == pytest.approx(wanted, rel=1e-12)


def test_how_it_warms_up_is_in_the_key(program: Make) -> None:
    level, rising = (
        program(steps=4, learning_rate=LearningRate(warmup=10, linear_warmup=linear)).key_at(1)
        for linear in (False, True)
    )
    assert level != rising


def test_cosine_and_constant() -> None:
    constant, cosine = LearningRate(schedule="constant", warmup=4), LearningRate(schedule="cosine", warmup=4)
    assert [learning_rate(constant, step, 9) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate(cosine, 1, 104) == 0.5
    assert learning_rate(cosine, 54, 104) == pytest.approx(0.5)
    assert learning_rate(cosine, 103, 104) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


RIGL = Pruning(method="rigl", sparsity=0.75, start=0, end=18, every=3)
CONSTANT = LearningRate(schedule="constant", base=3e-3, warmup=4)


@pytest.mark.parametrize(
    "options",
    [
        {
            "optimizer": Optimizer(name="adamw", weight_decay=0.1),
            "learning_rate": LearningRate(schedule="cosine", base=3e-3, warmup=4),
        },
        {
            "optimizer": Optimizer(clip_norm=0.5),
            "learning_rate": LearningRate(base=0.3, warmup=10, cooldown=6),
        },
        {"numerics": Numerics(precision="bf16")},
        {"numerics": Numerics(micro_batch=1)},
        {"optimizer": Optimizer(factored=True), "pruning": RIGL},
        {"optimizer": Optimizer(name="adamw"), "learning_rate": CONSTANT, "pruning": RIGL},
        {
            "optimizer": Optimizer(name="adafactor-vit", factored=True, weight_decay=0.03, clip_norm=1.0),
            "learning_rate": LearningRate(base=0.01, warmup=4, linear_warmup=True),
            "pruning": RIGL,
        },
        {"numerics": Numerics(label_smoothing=0.1, z_loss=1e-3)},
    ],
    ids=[
        "adamw-cosine",
        "clip-cooldown",
        "bf16",
        "micro",
        "rigl-factored",
        "rigl-adamw",
        "rigl-vit",
        "smoothing",
    ],
)
def test_a_cut_changes_no_bit(
    options: dict[str, Any], program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    chosen = program(steps=24, **{"sparsity": 0.75, **options})

    def train(start: int, end: int, parent: str | None, name: str) -> Any:
        return train_segment(
            chosen, start, end, data=prepared.path, parent=parent, output=str(tmp_path / name), sink=NoSink()
        )

    alone = train(0, 24, None, "alone")
    first = train(0, 11, None, "cut")
    second = train(11, 24, first.checkpoint, "cut")
    assert second.loss == alone.loss
    assert checksums(second.checkpoint) == checksums(alone.checkpoint)
    assert second.sparsity_reached == pytest.approx(0.75, abs=0.01)
    plain = program(steps=24, sparsity=0.75)
    assert (
        alone.loss
        != train_segment(
            plain, 0, 24, data=prepared.path, parent=None, output=str(tmp_path / "plain"), sink=NoSink()
        ).loss
    )


def first_gradient(program: Program, prepared: Prepared) -> tuple[float, torch.Tensor]:
    """The loss of the first step, and the gradient that its optimiser takes."""
    run, seen = Run(program, prepared, device_for("cpu")), []
    run.pruner.observe = lambda step, gradient: seen.append(gradient.clone())  # type: ignore[method-assign]
    return float(run.advance()), seen[0]


def test_clipping_shortens_long_gradients_alone(program: Make, prepared: Prepared) -> None:
    norms = {}
    for most in (0.0, 0.01, 1e6):
        _, gradient = first_gradient(program(steps=4, optimizer=Optimizer(clip_norm=most)), prepared)
        norms[most] = float(gradient.norm())
    assert norms[0.01] == pytest.approx(0.01, rel=1e-4)
    assert norms[1e6] == norms[0.0] > 0.1


@pytest.mark.parametrize("family", ["t5", "decoder"])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(
    family: str, program: Make, prepared: Prepared
) -> None:
    found = [
        first_gradient(
            program(steps=4, family=family, numerics=Numerics(micro_batch=micro, z_loss=0.01)), prepared
        )
        for micro in (0, 2, 1)
    ]
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)


def test_the_size_of_the_parts_is_in_the_key(program: Make) -> None:
    keys = {program(steps=4, numerics=Numerics(micro_batch=micro)).key_at(1) for micro in (0, 1, 2)}
    assert len(keys) == 3, "sums in another order have other last bits"


def test_bf16_comes_close_to_float32(program: Make, prepared: Prepared) -> None:
    exact = Run(program(steps=4), prepared, device_for("cpu"))
    rough = Run(program(steps=4, numerics=Numerics(precision="bf16")), prepared, device_for("cpu"))
    assert rough.evaluate() == pytest.approx(exact.evaluate(), rel=1e-2)
    assert rough.evaluate() != exact.evaluate()
    assert all(array.dtype == "float32" for array in rough.state().weights.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": Optimizer(name="lion")}, "use adafactor, adafactor-vit, adamw"),
        ({"optimizer": Optimizer(name="adamw", factored=True)}, "adamw has no factored: leave it out"),
        ({"optimizer": Optimizer(weight_decay=0.1)}, "adafactor has no weight_decay: leave it out"),
        ({"learning_rate": LearningRate(schedule="cosine", linear_warmup=True)}, "linear_warmup is of rsqrt"),
        ({"numerics": Numerics(micro_batch=3)}, "3, which does not divide the batch of 4"),
        ({"numerics": Numerics(precision="fp8")}, "use float32, bf16"),
        ({"learning_rate": LearningRate(schedule="step")}, "use rsqrt, cosine or constant"),
        ({"learning_rate": LearningRate(cooldown=24)}, "does not fit into 24"),
        ({"learning_rate": LearningRate(schedule="constant", cooldown=2)}, "constant has none; leave it out"),
    ],
)
def test_what_is_not_there_cannot_be_planned(options: dict[str, Any], said: str, program: Make) -> None:
    with pytest.raises(ProgramError, match=said):
        program(steps=24, **options)
