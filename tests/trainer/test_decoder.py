"""The decoder family: transformers' Llama on the same weights, next-token batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trainer.data import Prepared
from trainer.data.batches import Batches
from trainer.errors import ShapeError
from trainer.families.decoder import counted, initial
from trainer.models import build
from trainer.program import DataStream, Program, ProgramError
from trainer.shapes import shape_for

Make = Callable[..., Program]

MODEL = {"d_model": 48, "heads": 4, "d_ff": 128, "layers": 2, "vocab_size": 100}


def test_logits_and_gradients_are_the_librarys() -> None:
    network = build("decoder", shape_for("decoder", 12 * 48**2 * 2, MODEL).dims, 0, z_loss=0.0)
    torch.manual_seed(0)
    tokens = torch.randint(0, 100, (3, 41))
    parameters = list(network.module.parameters())
    ours = network.loss({"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}).train
    theirs = network.module(input_ids=tokens, labels=tokens).loss
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    for mine, other in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rule", ["paper", "linear"])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_counts_are_those_of_the_model_that_is_built(rule: str, multiple_of: int) -> None:
    shape = shape_for("decoder", 12 * 40**2 * 2, {**MODEL, "shape_rule": rule, "multiple_of": multiple_of})
    network = build("decoder", shape.dims, 0, z_loss=0.0)
    sizes = {name: parameter.numel() for name, parameter in network.module.named_parameters()}
    assert "lm_head.weight" not in sizes, "tied to the embedding"
    assert sum(sizes.values()) == shape.total
    linear = sum(size for name, size in sizes.items() if "norm" not in name and "embed" not in name)
    assert linear == shape.linear
    assert shape.dims["d_model"] % (2 * shape.dims["heads"]) == 0, "rotary positions turn pairs"
    assert shape.dims["d_model"] % multiple_of == 0
    assert shape.dims["d_ff"] % multiple_of == 0


def test_the_papers_base_is_reached_exactly() -> None:
    shape = shape_for("decoder", 12 * 12 * 768**2, {})
    assert (shape.dims["d_model"], shape.dims["d_ff"], shape.linear) == (768, 2048, 12 * 12 * 768**2)
    assert shape.error == 0


def test_unreachable_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="shape_rule 'best' is unknown"):
        shape_for("decoder", 1e6, {"shape_rule": "best"})
    with pytest.raises(ShapeError, match="nothing for the feed-forward"):
        shape_for("decoder", 1e5, {"shape_rule": "linear", "multiple_of": 64})


def test_initial_values_follow_the_rule() -> None:
    dims = shape_for("decoder", 12 * 128**2, {**MODEL, "d_model": 128, "d_ff": 512, "layers": 1}).dims
    module = build("decoder", dims, 0, z_loss=0.0).module
    for name, parameter in module.named_parameters():
        deviation = initial(name, dims).deviation
        if not deviation:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            assert float(parameter.detach().std()) == pytest.approx(deviation, rel=0.03), name


def test_targets_are_the_next_tokens(prepared: Prepared) -> None:
    stream = DataStream(digest=prepared.digest, objective="causal", sequence_length=24, evaluation_batches=2)
    batches = Batches(stream, prepared, batch_size=4, seed=0)
    batch = batches.train(3)
    assert batch["inputs"].shape == batch["targets"].shape == (4, 24)
    assert np.array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    text = prepared.tokens("train").tobytes()
    row = np.append(batch["inputs"][0], batch["targets"][0, -1])
    assert row.astype(np.uint16).tobytes() in text
    assert batches.tokens_per_batch == 4 * counted(24)


def test_an_objective_of_another_family_is_refused(program: Make) -> None:
    base = program(family="decoder", steps=4).to_dict()
    with pytest.raises(ProgramError, match="decoder is trained by causal, not by 'span-corruption'"):
        Program.from_dict({**base, "data": {**base["data"], "objective": "span-corruption"}})


@pytest.mark.parametrize("change", [{"random_flip": True}, {"crop_padding": 2}])
def test_what_changes_images_is_refused_for_text(change: dict[str, object], program: Make) -> None:
    base = program(family="decoder", steps=4).to_dict()
    with pytest.raises(ProgramError, match="change images: leave them out for text"):
        Program.from_dict({**base, "data": {**base["data"], **change}})
