"""Patterns that remove more than single weights: blocks and channels, against brute force, and what they mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer import families, models
from trainer.data import Prepared
from trainer.devices import device_for
from trainer.families.structures import Structure
from trainer.flat import FlatParameters
from trainer.program import Program, Pruning
from trainer.pruning.patterns import keep_blocks, keep_channels
from trainer.pruning.pruner import Pruner
from trainer.run import Run
from trainer.shapes import shape_for

Make = Callable[..., Program]

#: Few values, all sums of them exact: ties everywhere, and no rounding.
FEW = st.sampled_from([0.0, 0.5, 1.0, 2.0])


def first(totals: list[float], keep: int) -> set[int]:
    """The indices of the highest totals, lower index first among equals."""
    return set(sorted(range(len(totals)), key=lambda index: (-totals[index], index))[:keep])


@given(st.data(), st.sampled_from([(2, 4), (4, 2), (1, 3), (3, 1), (4, 4)]))
@settings(deadline=None)
def test_the_blocks_of_highest_magnitude_stay_whole(data: st.DataObject, block: tuple[int, int]) -> None:
    rows, columns = block
    height, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    scores = data.draw(arrays(np.float32, (height * rows, width * columns), elements=FEW))
    blocks = data.draw(st.integers(1, height * width))
    totals = [
        float(scores[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].sum())
        for i in range(height)
        for j in range(width)
    ]
    expected = np.zeros(scores.shape, bool)
    for index in first(totals, blocks):
        i, j = divmod(index, width)
        expected[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = True
    mask = keep_blocks(torch.from_numpy(scores), blocks * rows * columns, rows, columns).numpy()
    assert mask.sum() == blocks * rows * columns
    assert np.array_equal(mask, expected)


@given(st.data(), st.integers(2, 4), st.integers(1, 3))
@settings(deadline=None)
def test_channels_of_highest_magnitude_stay_in_all_their_weights(
    data: st.DataObject, count: int, wide: int
) -> None:
    shapes = {"q": (count * wide, 3), "k": (count * wide, 3), "o": (5, count * wide)}
    arrays_ = {name: data.draw(arrays(np.float32, shape, elements=FEW)) for name, shape in shapes.items()}
    keep = data.draw(st.integers(1, count))
    totals = [
        sum(float(arrays_[name][i * wide : (i + 1) * wide].sum()) for name in "qk")
        + float(arrays_["o"][:, i * wide : (i + 1) * wide].sum())
        for i in range(count)
    ]
    masks = keep_channels(
        {name: torch.from_numpy(array) for name, array in arrays_.items()},
        {name: array.size // count * keep for name, array in arrays_.items()},
        [Structure("heads", count, ("q", "k"), ("o",))],
    )
    alive = np.repeat([index in first(totals, keep) for index in range(count)], wide)
    assert np.array_equal(masks["q"].numpy(), np.broadcast_to(alive[:, None], shapes["q"]))
    assert np.array_equal(masks["k"].numpy(), np.broadcast_to(alive[:, None], shapes["k"]))
    assert np.array_equal(masks["o"].numpy(), np.broadcast_to(alive, shapes["o"]))


#: Family → options of a tiny model with four heads.
FOUR_HEADS = {
    "t5": {"d_model": 16, "heads": 4, "d_ff": 24, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 64},
    "decoder": {"d_model": 16, "heads": 4, "d_ff": 24, "layers": 2, "vocab_size": 64},
    "encoder": {"d_model": 16, "heads": 4, "d_ff": 24, "layers": 2, "vocab_size": 64},
    "vit": {
        **{"d_model": 16, "heads": 4, "d_ff": 64, "layers": 2, "classes": 10},
        **{"image_size": 8, "patch_size": 4, "channels": 1},
    },
}


def tiny(family: str) -> dict[str, int]:
    return shape_for(family, 12 * 16**2 * 2, FOUR_HEADS[family]).dims


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_linear_weight_is_in_exactly_one_structure(family: str) -> None:
    dims, rules = tiny(family), families.rules(family)
    network = models.build(family, dims, 0, z_loss=0.0)
    linear = {
        name
        for name, weight in network.module.named_parameters()
        if rules.prunable(name, weight.dim()) and not rules.shrinks_with_width(name)
    }
    members = [name for one in rules.structures(dims) for name in one.members]
    assert sorted(members) == sorted(linear)
    shapes = {name: tuple(weight.shape) for name, weight in network.module.named_parameters()}
    for one in rules.structures(dims):
        assert all(shapes[name][0] % one.channels == 0 for name in one.rows)
        assert all(shapes[name][1] % one.channels == 0 for name in one.columns)


def inputs(family: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    if family == "vit":
        return {"pixels": torch.randn(2, 1, 8, 8), "labels": torch.tensor([[1], [2]])}
    ids = torch.randint(3, 64, (2, 12))
    return {"inputs": ids, "targets": torch.roll(ids, -1, 1), "weights": torch.ones(2, 12)}


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name != "encoder"])
def test_a_pruned_channel_says_nothing(family: str, program: Make) -> None:
    """What is left in a removed head or feature, its bias, reaches no output: it could be cut out of the model."""
    dims = tiny(family)
    network = models.build(family, dims, 3, z_loss=0.0)
    flat = FlatParameters(network.module)
    base = program(steps=24).to_dict()
    pruning = {"sparsity": 0.75, "pattern": "channel", "start": 6, "end": 18, "every": 2}
    base["pruning"].update(pruning)
    base["data"]["objective"] = families.rules(family).OBJECTIVES[0]
    pruner = Pruner(Program.from_dict({**base, "family": family, "shape": dims}), flat)
    pruner.observe(18, flat.zeros())
    pruner.apply()
    before = float(network.loss(inputs(family)).reported)
    masks = pruner.masks()
    for one in families.rules(family).structures(dims):
        dead = ~masks[one.rows[0]].reshape(one.channels, -1).any(1)
        assert int(dead.sum()) == one.channels * 3 // 4
        assert all(torch.equal(~masks[name].reshape(one.channels, -1).any(1), dead) for name in one.rows)
        with torch.no_grad():
            for name in one.rows:
                if (bias := name.replace("weight", "bias")) in flat.views:
                    flat.views[bias].view(one.channels, -1)[dead] = 17.0
    assert float(network.loss(inputs(family)).reported) == pytest.approx(before, rel=1e-6)


def test_blocks_and_channels_are_whole_at_the_end(program: Make, prepared: Prepared) -> None:
    for pattern, rows, columns in (("block:2x4", 2, 4), ("block:8x1", 8, 1)):
        pruning = Pruning(pattern=pattern, sparsity=0.75, start=6, end=18, every=2)
        run = Run(program(steps=24, pruning=pruning), prepared, device_for("cpu"))
        for _ in range(24):
            run.advance()
        assert run.pruner.missed() == []
        for layer in run.pruner.layers:
            if layer.linear:
                mask = run.pruner.masks()[layer.name]
                tiles = mask.reshape(len(mask) // rows, rows, -1, columns).sum((1, 3))
                assert set(tiles.unique().tolist()) == {0, rows * columns}, layer.name
                assert int((tiles > 0).sum()) == round(0.25 * tiles.numel()), layer.name
