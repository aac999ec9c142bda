"""The optimiser, step by step, against the paper's chain written again in NumPy, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainer.conftest import step_of
from trainer.flat import FlatParameters, StackedParameters
from trainer.optim import build
from trainer.program import Optimizer


class Reference:
    """RECIPE section 4, one tensor, as literally as it can be written."""

    def __init__(self, weights: np.ndarray) -> None:
        self.p = weights.astype(np.float64)
        self.v = np.zeros_like(self.p)

    def step(self, gradient: np.ndarray, rate: float, step: int) -> None:
        g = gradient.astype(np.float64)
        beta2 = 1 - (step + 1) ** -0.8
        self.v = beta2 * self.v + (1 - beta2) * (g * g + 1e-30)
        u = g / np.sqrt(self.v)
        alive = self.p != 0
        nnz = alive.sum()
        if nnz == 0:  # an all-zero layer counts as dense
            alive, nnz = np.ones_like(self.p, bool), self.p.size
        u = u / max(1.0, np.sqrt((u[alive] ** 2).sum() / nnz))
        rms = np.sqrt((self.p**2).mean())
        self.p = self.p - rate * u * np.sqrt(max(rms, 1e-3) ** 2 * self.p.size / nnz)


class FactoredReference:
    """Shazeer and Stern's algorithm 4 with the paper's clip and scale, in NumPy alone; matrices only."""

    def __init__(self, weights: np.ndarray) -> None:
        self.p = weights.astype(np.float64)
        self.row, self.column = np.zeros(len(self.p)), np.zeros(self.p[0].size)

    def step(self, gradient: np.ndarray, rate: float, step: int) -> None:
        p, g = self.p.reshape(len(self.p), -1), gradient.astype(np.float64).reshape(len(self.p), -1)
        beta2 = 1 - (step + 1) ** -0.8
        self.row = beta2 * self.row + (1 - beta2) * (g**2 + 1e-30).mean(axis=1)
        self.column = beta2 * self.column + (1 - beta2) * (g**2 + 1e-30).mean(axis=0)
        u = g / np.sqrt(np.outer(self.row, self.column) / self.row.mean())
        alive = p != 0 if (p != 0).any() else np.ones_like(p, bool)
        nnz = alive.sum()
        u = u / max(1.0, np.sqrt((u[alive] ** 2).sum() / nnz))
        scale = np.sqrt(max(np.sqrt((p**2).mean()), 1e-3) ** 2 * p.size / nnz)
        self.p = (p - rate * scale * u).reshape(self.p.shape)


class VitReference:
    """RECIPE section 3, the ViT's AdaFactor as big_vision has it, one tensor; matrices factored where asked."""

    def __init__(self, weights: np.ndarray, factored: bool) -> None:
        self.p, self.factored = weights.astype(np.float64), factored and weights.ndim > 1
        self.v, self.m = np.zeros_like(self.p), np.zeros_like(self.p)
        self.row, self.column = np.zeros(len(self.p)), np.zeros(self.p[0].size)

    def step(self, gradient: np.ndarray, rate: float, step: int) -> None:
        g = gradient.astype(np.float64)
        beta2 = min(0.999, 1 - (step + 1) ** -0.8)
        if self.factored:
            squares = (g**2 + 1e-30).reshape(len(g), -1)
            self.row = beta2 * self.row + (1 - beta2) * squares.mean(axis=1)
            self.column = beta2 * self.column + (1 - beta2) * squares.mean(axis=0)
            v = (np.outer(self.row, self.column) / self.row.mean()).reshape(g.shape)
        else:
            v = self.v = beta2 * self.v + (1 - beta2) * (g**2 + 1e-30)
        self.m = 0.9 * self.m + 0.1 * g / np.sqrt(v)
        decay = 0.03 if g.ndim > 1 else 0.0
        self.p = self.p - rate * (self.m + decay * self.p)


@pytest.mark.parametrize("factored", [False, True])
def test_the_vits_adafactor_follows_big_vision_step_by_step(factored: bool) -> None:
    draw = np.random.default_rng(7)
    flat = FlatParameters(_module(draw))
    optimizer = build(
        Optimizer(name="adafactor-vit", factored=factored, weight_decay=0.03), StackedParameters([flat])
    )
    references = {name: VitReference(view.numpy(), factored) for name, view in flat.views.items()}
    pruned = draw.random((8, 8)) < 0.75
    gradient = flat.zeros()
    # Beside the first steps one far behind the cap of β2, which t^(−0.8) meets at step 5,624.
    for count, step in enumerate([0, 1, 2, 3, 4, 5, 9_000, 9_001]):
        for name, reference in references.items():
            values = draw.normal(size=reference.p.shape).astype(np.float32)
            flat.view_of(gradient)[name].copy_(torch.from_numpy(values))
            reference.step(values, 0.05, step)
        step_of(optimizer, gradient, 0.05, step)
        if count >= 4:
            references["pruned"].p[pruned] = 0
            flat.views["pruned"][torch.from_numpy(pruned)] = 0
        for name, reference in references.items():
            np.testing.assert_allclose(
                flat.views[name].numpy(), reference.p, rtol=5e-5, atol=1e-6, err_msg=f"{name} {step}"
            )
    assert (references["pruned"].m[pruned] != 0).all(), "moments stay dense"
    grown = torch.from_numpy(draw.random((8, 8)) < 0.5)
    optimizer.forget(0, "pruned", grown)
    state = optimizer.state(0)
    assert torch.equal(state["m"]["pruned"] == 0, grown)
    for kind in ("row", "column") if factored else ():
        assert (state[kind]["pruned"] != 0).all(), "it has seen their gradients all along"


def test_factored_moments_follow_the_chain_step_by_step() -> None:
    draw = np.random.default_rng(5)
    module = _module(draw)
    module.register_parameter(
        "patches", nn.Parameter(torch.tensor(draw.normal(size=(6, 2, 3, 3)), dtype=torch.float32))
    )
    flat = FlatParameters(module)
    optimizer = build(Optimizer(factored=True), StackedParameters([flat]))
    references = {
        name: FactoredReference(view.numpy()) if view.dim() > 1 else Reference(view.numpy())
        for name, view in flat.views.items()
    }
    pruned = draw.random((8, 8)) < 0.75
    gradient = flat.zeros()
    for step in range(12):
        rate = 0.2 / np.sqrt(max(step, 4))
        for name, reference in references.items():
            values = draw.normal(size=reference.p.shape).astype(np.float32)
            if name == "wide" and step == 5:
                values[:] = 0
            if name == "matrix":
                values[2] = 0  # an output that no batch reaches
            flat.view_of(gradient)[name].copy_(torch.from_numpy(values))
            reference.step(values, rate, step)
        step_of(optimizer, gradient, rate, step)
        if step >= 4:
            references["pruned"].p[pruned] = 0
            flat.views["pruned"][torch.from_numpy(pruned)] = 0
        for name, reference in references.items():
            np.testing.assert_allclose(
                flat.views[name].numpy(), reference.p, rtol=5e-5, atol=1e-7, err_msg=f"{name} {step}"
            )
    state = optimizer.state(0)
    assert {name: tuple(row.shape) for name, row in state["row"].items()}["patches"] == (6,)
    assert {name: tuple(one.shape) for name, one in state["column"].items()}["patches"] == (18,)
    assert set(state["v"]) == {"scale", "bias"}
    floats = sum(one.numel() for views in state.values() for one in views.values())
    assert floats < sum(view.numel() for view in flat.views.values()) / 2


def _module(draw: np.random.Generator) -> nn.Module:
    module = nn.Module()
    shapes = {
        "matrix": (7, 5),
        "wide": (3, 40),
        "scale": (9,),
        "bias": (6,),
        "zero": (4, 4),
        "pruned": (8, 8),
    }
    for name, shape in shapes.items():
        values = draw.normal(size=shape) * (1e-5 if name == "bias" else 0.3)
        if name == "zero":
            values[:] = 0
        module.register_parameter(name, nn.Parameter(torch.tensor(values, dtype=torch.float32)))
    return module


def test_every_step_follows_the_papers_chain() -> None:
    draw = np.random.default_rng(3)
    flat = FlatParameters(_module(draw))
    optimizer = build(Optimizer(), StackedParameters([flat]))
    references = {name: Reference(view.numpy()) for name, view in flat.views.items()}
    pruned = draw.random((8, 8)) < 0.75
    gradient = flat.zeros()
    gradients = flat.view_of(gradient)
    for step in range(12):
        rate = 0.2 / np.sqrt(max(step, 4))
        for name, reference in references.items():
            values = draw.normal(size=reference.p.shape).astype(np.float32)
            if name == "wide" and step == 5:
                values[:] = 0  # a batch that says nothing to a layer
            gradients[name].copy_(torch.from_numpy(values))
            reference.step(values, rate, step)
        step_of(optimizer, gradient, rate, step)
        if step >= 4:  # just pruned: from here on the layer has zeros
            references["pruned"].p[pruned] = 0
            flat.views["pruned"][torch.from_numpy(pruned)] = 0
        for name, reference in references.items():
            np.testing.assert_allclose(
                flat.views[name].numpy(), reference.p, rtol=2e-5, atol=1e-7, err_msg=name
            )
            np.testing.assert_allclose(
                optimizer.state(0)["v"][name].numpy(), reference.v, rtol=1e-5, atol=1e-12, err_msg=name
            )


def test_an_all_zero_layer_moves_and_gives_no_nan() -> None:
    module = nn.Module()
    module.register_parameter("zero", nn.Parameter(torch.zeros(4, 4)))
    flat = FlatParameters(module)
    optimizer = build(Optimizer(), StackedParameters([flat]))
    gradient = flat.zeros()
    step_of(optimizer, gradient, 0.1, 0)
    assert torch.equal(flat.views["zero"], torch.zeros(4, 4)), "no gradient, no step"
    flat.view_of(gradient)["zero"].fill_(2.0)
    step_of(optimizer, gradient, 0.1, 1)
    assert torch.isfinite(flat.data).all()
    assert (flat.views["zero"] != 0).all()


def test_spare_lanes_stay_zero() -> None:
    module = nn.Module()
    module.register_parameter("a", nn.Parameter(torch.ones(3)))
    module.register_parameter("b", nn.Parameter(torch.ones(5)))
    flat = FlatParameters(module)
    optimizer = build(Optimizer(), StackedParameters([flat]))
    for step in range(3):
        gradient = flat.zeros()
        for view in flat.view_of(gradient).values():
            view.fill_(0.5)
        step_of(optimizer, gradient, 0.1, step)
    used = sum(view.numel() for view in flat.views.values())
    assert torch.count_nonzero(flat.data) == used
    assert module.a.data_ptr() == flat.views["a"].data_ptr()  # type: ignore[union-attr]
