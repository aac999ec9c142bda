"""The encoder family: transformers' BERT on the same weights, masked batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trainer.data import Prepared
from trainer.data.batches import Batches
from trainer.families import rules
from trainer.models import build
from trainer.program import DataStream, Program, ProgramError
from trainer.shapes import shape_for

Make = Callable[..., Program]

MODEL = {"d_model": 48, "heads": 4, "d_ff": 192, "layers": 2, "vocab_size": 100, "positions": 40}


def test_logits_and_gradients_are_the_librarys() -> None:
    network = build("encoder", shape_for("encoder", 12 * 48**2 * 2, MODEL).dims, 0, z_loss=0.0)
    torch.manual_seed(0)
    with torch.no_grad():  # zeros and ones hide what a bias or a norm's scale does
        for parameter in network.module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    inputs, targets = torch.randint(1, 100, (2, 3, 31))  # the library gives its padding, 0, no gradient
    positions = torch.stack([torch.randperm(31)[:5].sort().values for _ in range(3)])
    labels = torch.full_like(inputs, -100).scatter(1, positions, targets.gather(1, positions))
    batch = {"inputs": inputs, "positions": positions, "targets": targets.gather(1, positions)}
    parameters = list(network.module.parameters())
    ours = network.loss(batch).train
    theirs = network.module(input_ids=inputs, labels=labels).loss
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    for mine, other in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["paper", "linear"])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_counts_are_those_of_the_model_that_is_built(rule: str, multiple_of: int) -> None:
    shape = shape_for("encoder", 12 * 40**2 * 2, {**MODEL, "shape_rule": rule, "multiple_of": multiple_of})
    module = build("encoder", shape.dims, 0, z_loss=0.0).module
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    family = rules("encoder")
    assert sum(sizes.values()) == shape.total
    linear = {
        name
        for name in sizes
        if family.prunable(name, module.get_parameter(name).dim()) and not family.shrinks_with_width(name)
    }
    assert sum(sizes[name] for name in linear) == shape.linear
    assert linear == {name for structure in family.structures(shape.dims) for name in structure.members}
    assert shape.dims["d_ff"] % multiple_of == 0


def test_bert_base_is_reached_exactly() -> None:
    shape = shape_for("encoder", 12 * 12 * 768**2, {})
    assert (shape.dims["d_model"], shape.dims["d_ff"], shape.linear) == (768, 3072, 12 * 12 * 768**2)


def test_initial_values_follow_the_rule() -> None:
    dims = shape_for("encoder", 12 * 128**2, {**MODEL, "d_model": 128, "d_ff": 512, "layers": 1}).dims
    module = build("encoder", dims, 0, z_loss=0.0).module
    expected = {
        "word_embeddings.weight": 128**-0.5,
        "query.weight": 128**-0.5,
        "attention.output.dense.weight": 128**-0.5,
        "intermediate.dense.weight": 128**-0.5,
        "0.output.dense.weight": 512**-0.5,
        "transform.dense.weight": 128**-0.5,
    }
    for name, parameter in module.named_parameters():
        value = parameter.detach()
        if name.endswith("bias"):
            assert not value.any(), name
        elif "LayerNorm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
        for ending, deviation in expected.items():
            if name.endswith(ending):
                assert float(value.std()) == pytest.approx(deviation, rel=0.04), name
                assert abs(float(value.mean())) < 5 * deviation * value.numel() ** -0.5, name


def test_masks_are_berts(prepared: Prepared) -> None:
    stream = DataStream(digest=prepared.digest, objective="masked", sequence_length=40, evaluation_batches=1)
    batches = Batches(stream, prepared, batch_size=256, seed=0)
    hidden = random = kept = 0
    text = prepared.tokens("train").astype("<u2").tobytes()
    for index in range(4):
        batch = batches.train(index)
        assert batch["inputs"].shape == (256, 40)
        assert batch["positions"].shape == batch["targets"].shape == (256, 6), "15 % of 40"
        assert (np.diff(batch["positions"], axis=1) > 0).all()
        shown = np.take_along_axis(batch["inputs"], batch["positions"], axis=1)
        hidden += int((shown == prepared.mask).sum())
        kept += int((shown == batch["targets"]).sum())
        random += int(((shown != prepared.mask) & (shown != batch["targets"])).sum())
        whole = batch["inputs"].copy()
        np.put_along_axis(whole, batch["positions"], batch["targets"], axis=1)
        assert whole[7].astype("<u2").tobytes() in text, "all else is as it was"
    total = hidden + random + kept
    for count, share in ((hidden, 0.8), (random, 0.1), (kept, 0.1)):
        assert abs(count / total - share) < 4 * (share * (1 - share) / total) ** 0.5 + 0.1 / 384
    again = Batches(stream, prepared, batch_size=256, seed=0).train(2)
    other = Batches(stream, prepared, batch_size=256, seed=1).train(2)
    assert all(np.array_equal(again[name], batches.train(2)[name]) for name in again)
    for unlike in (other, batches.train(1)):
        assert not np.array_equal(unlike["positions"], again["positions"])


def test_sequences_longer_than_its_positions_are_refused(program: Make) -> None:
    base = program(family="encoder", steps=4).to_dict()
    with pytest.raises(ProgramError, match=r"sequence_length is 99.*raise model.positions"):
        Program.from_dict({**base, "data": {**base["data"], "sequence_length": 99}})
