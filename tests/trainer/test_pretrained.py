"""Starting from weights that exist: the same function as in `transformers`, keys by digest, refusals that help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from orchestrator.plan.plan import build
from orchestrator.spec import SpecError, load_spec
from tests.trainer.conftest import checksums, shared_prefix
from trainer import checkpoint, models
from trainer.data import Prepared
from trainer.devices import device_for
from trainer.errors import PretrainedError
from trainer.metrics import NoSink
from trainer.pretrained import inspect, load, start_at
from trainer.program import Program, Pruning, Start
from trainer.run import Run
from trainer.segment import train_segment

Make = Callable[..., Program]

T5 = {
    **{"vocab_size": 384, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2},
    **{"num_layers": 1, "num_decoder_layers": 1, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0},
}
LLAMA = {
    **{"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
}
VIT = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32},
    **{"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 10},
}
BERT = {
    **{"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 32, "max_position_embeddings": 24},
}


def saved(folder: Path, model: Any) -> Path:
    """A `transformers` model with weights that differ everywhere, norms and biases too, as the library saves it."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 v1.1 folder that fits the tests' tiny programs, its logits its own."""
    folder = tmp_path_factory.mktemp("theirs") / "t5"
    config = transformers.T5Config(**T5, tie_word_embeddings=False)
    saved(folder, transformers.T5ForConditionalGeneration(config))
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = np.random.default_rng(0).normal(size=(384, 8)).astype(np.float32)
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def ours(folder: Path, family: str) -> Any:
    found = inspect(str(folder), family)
    network = models.build(family, found.dims, 0, z_loss=0.0)
    weights = load(start_at(found), family, found.dims)
    with torch.no_grad():
        for name, parameter in network.module.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    return network


@pytest.mark.parametrize("tied", [False, True])
def test_t5_computes_what_transformers_does(tied: bool, t5: Path, tmp_path: Path) -> None:
    folder = t5
    if tied:  # as before v1.1: logits by the embedding, scaled
        config = transformers.T5Config(**T5, tie_word_embeddings=True)
        folder = saved(tmp_path / "tied", transformers.T5ForConditionalGeneration(config))
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    inputs, decoder_inputs = torch.randint(0, 384, (2, 11)), torch.randint(0, 384, (2, 7))
    expected = theirs(input_ids=inputs, decoder_input_ids=decoder_inputs).logits
    torch.testing.assert_close(
        ours(folder, "t5").logits(inputs, decoder_inputs), expected, rtol=1e-4, atol=1e-4
    )


def test_decoder_computes_what_transformers_does(tmp_path: Path) -> None:
    folder = saved(tmp_path / "llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)))
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    inputs = torch.randint(0, 64, (2, 9))
    torch.testing.assert_close(
        ours(folder, "decoder").logits(inputs), theirs(input_ids=inputs).logits, rtol=1e-4, atol=1e-4
    )


def test_vit_computes_what_transformers_does(tmp_path: Path) -> None:
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT))
    folder = saved(tmp_path / "vit", model)
    names = safetensors.numpy.load_file(folder / "model.safetensors")
    assert any(".attention.attention.query." in name for name in names), "files have the library's old names"
    theirs = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    pixels, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    expected = torch.nn.functional.cross_entropy(theirs(pixel_values=pixels).logits, labels)
    found = ours(folder, "vit").loss({"pixels": pixels, "labels": labels[:, None]}).reported
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)


def test_encoder_computes_what_transformers_does_with_its_first_type(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", transformers.BertForMaskedLM(transformers.BertConfig(**BERT)))
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    inputs = torch.randint(0, 64, (2, 9))
    positions = torch.arange(9).expand(2, 9)
    torch.testing.assert_close(
        ours(folder, "encoder").logits(inputs, positions),
        theirs(input_ids=inputs).logits,
        rtol=1e-4,
        atol=1e-4,
    )


def test_several_files_and_bf16_are_read(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    saved(tmp_path / "whole", model)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "parts", max_shard_size="3KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    dims = inspect(str(tmp_path / "parts"), "decoder").dims
    weights = load(start_at(inspect(str(tmp_path / "parts"), "decoder")), "decoder", dims)
    exact = load(start_at(inspect(str(tmp_path / "whole"), "decoder")), "decoder", dims)
    assert all(array.dtype == np.float32 for array in weights.values())
    for name, array in exact.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-2)


def started(program: Make, at: Path | str, **options: Any) -> Program:
    found = inspect(str(at), "t5")
    return replace(program(**options), start=start_at(found), shape=found.dims)


def test_a_run_begins_with_these_weights_and_is_exact(
    t5: Path, program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    chosen = started(program, t5, steps=12, sparsity=0.75)
    weights = load(chosen.start, "t5", chosen.shape)

    def train(start: int, end: int, parent: str | None, name: str, of: Program = chosen) -> Any:
        output = str(tmp_path / name)
        return train_segment(of, start, end, data=prepared.path, parent=parent, output=output, sink=NoSink())

    alone = train(0, 12, None, "alone")
    first = train(0, 5, None, "cut")
    assert train(5, 12, first.checkpoint, "cut").loss == alone.loss
    assert checksums(checkpoint.url_of(str(tmp_path / "cut"), 12)) == checksums(alone.checkpoint)
    seeded = replace(chosen, start=Start())
    assert train(0, 12, None, "seeded", seeded).loss != alone.loss
    one = train(0, 1, None, "one")
    moved = checkpoint.load(one.checkpoint, chosen).weights["shared.weight"]
    assert np.abs(moved - weights["shared.weight"]).max() < 0.5 < np.abs(weights["shared.weight"]).max()
    # Later rounds of imp go back to the weights that the run started from.
    rounds = Pruning(method="imp", sparsity=0.5, start=0, end=4, every=2)
    run = Run(replace(chosen, pruning=rounds, steps=6), prepared, device_for("cpu"))
    run.load(
        checkpoint.load(
            train(0, 2, None, "dense", replace(chosen, pruning=Pruning())).checkpoint, run.program
        ),
        "",
    )
    while run.retrace():
        pass
    run._begin_step()
    mask = run.pruner.masks()["shared.weight"].numpy()
    assert np.array_equal(run._parameters.views["shared.weight"].numpy(), weights["shared.weight"] * mask)


def test_the_key_knows_the_weights_and_not_their_place(t5: Path, program: Make, tmp_path: Path) -> None:
    shutil.copytree(t5, tmp_path / "moved")
    here, there = started(program, t5, steps=12), started(program, tmp_path / "moved", steps=12)
    assert here.start.url != there.start.url
    assert here.key_at(5) == there.key_at(5)
    assert here.key_at(5) != replace(here, start=Start()).key_at(5)
    assert Program.from_dict(json.loads(json.dumps(here.to_dict()))) == here
    seeded = replace(here, start=Start())
    assert shared_prefix(here, seeded) == 0
    before = {name: value for name, value in seeded.to_dict().items() if name != "start"}
    assert Program.from_dict(before).key_at(5) == seeded.key_at(5), "programs of before there was a start"


def test_a_dense_checkpoint_of_ours_is_a_start(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    dense = program(steps=6)
    tip = train_segment(
        dense, 0, 6, data=prepared.path, parent=None, output=str(tmp_path / "a"), sink=NoSink()
    )
    chosen = started(program, tip.checkpoint, steps=12, sparsity=0.75)
    weights = load(chosen.start, "t5", chosen.shape)
    state = checkpoint.load(tip.checkpoint, dense)
    assert all(np.array_equal(weights[name], state.weights[name]) for name in state.weights)
    sparse = program(steps=12, sparsity=0.75)
    tip = train_segment(
        sparse, 0, 12, data=prepared.path, parent=None, output=str(tmp_path / "b"), sink=NoSink()
    )
    with pytest.raises(
        PretrainedError, match=r"is pruned already \(\d+ masks\): start from a dense checkpoint"
    ):
        inspect(tip.checkpoint, "t5")
    with pytest.raises(PretrainedError, match="holds a t5, not a vit"):
        inspect(tip.checkpoint, "vit")


def use(folder: Path, family: str) -> None:
    found = inspect(str(folder), family)
    load(start_at(found), family, found.dims)


def edited(folder: Path, source: Path, **changes: Any) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def without(folder: Path, source: Path, *names: str) -> Path:
    shutil.copytree(source, folder)
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    for name in names:
        del weights[name]
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_cannot_be_started_from_is_refused_by_name(t5: Path, tmp_path: Path) -> None:
    def said(folder: Path, family: str = "t5") -> str:
        with pytest.raises(PretrainedError) as refused:
            use(folder, family)
        return str(refused.value)

    assert "there is no checkpoint at" in said(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    assert "holds neither manifest.json (a checkpoint of ours) nor config.json" in said(tmp_path / "empty")
    assert "model_type is 't5', this family takes 'vit'" in said(t5, "vit")
    relu = edited(tmp_path / "relu", t5, feed_forward_proj="relu")
    assert "feed_forward_proj is 'relu', not 'gated-gelu'" in said(relu)

    pickled = edited(tmp_path / "pickled", t5)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "in pytorch_model.bin only, which can run code when it is read: save it again" in said(pickled)

    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert f"lacks 1 tensors of a t5, such as {name}" in said(without(tmp_path / "holes", t5, name))
    wide = edited(tmp_path / "wide", t5, d_ff=32)
    assert "decoder.block.0.layer.2.DenseReluDense.wi_0.weight of shape (16, 8), (32, 8) is needed" in said(
        wide
    )

    torn = edited(tmp_path / "torn", t5)
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "cannot be read" in said(torn)

    listed = edited(tmp_path / "listed", t5)
    index = {"weight_map": {"shared.weight": "../t5/model.safetensors"}}
    (listed / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names files outside its folder" in said(listed)

    found = inspect(str(t5), "t5")
    with pytest.raises(PretrainedError, match="have changed since the plan was made"):
        load(replace(start_at(found), digest="0" * 64), "t5", found.dims)
    with pytest.raises(PretrainedError, match=r"of another shape: .*d_ff 16, not 24"):
        load(start_at(found), "t5", {**found.dims, "d_ff": 24})


SPEC = """\
name: from-pretrained
model: {{family: t5, start_from: {place}}}
data: {{source: python-source, max_tokens: 1e5, sequence_length: 64}}
grid: {{sparsity: [0, 0.5, 0.75], steps: [80, 160]}}
pruning: {{every: 10}}
training: {{batch_size: 4, learning_rate: {{base: 0.1, warmup: 40}}}}
"""


def test_a_sweep_takes_shape_and_sizes_from_the_checkpoint(t5: Path) -> None:
    plan = build(load_spec(SPEC.format(place=t5)))
    assert len(plan.runs) == 6
    nominal = 12 * 8**2 * 2
    sizes = {run.cell.sparsity: run.columns()["nonzero_params"] for run in plan.runs}
    assert sizes == {0: nominal, 0.5: nominal / 2, 0.75: nominal / 4}
    digests = {run.program.start.digest for run in plan.runs}
    assert digests == {start_at(inspect(str(t5), "t5")).digest}
    assert all(run.program.shape == inspect(str(t5), "t5").dims for run in plan.runs)
    assert all(run.name.endswith(" from t5") for run in plan.runs)
    assert plan.saved > 0.1, "the dense fine-tuning is their trunk"
    axis = SPEC.replace(", start_from: {place}", "").replace("grid: {{", "grid: {{start_from: [{place}], ")
    assert [run.program.key_at(80) for run in build(load_spec(axis.format(place=t5))).runs] == [
        run.program.key_at(80) for run in plan.runs
    ]


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        (
            "grid: {{",
            "grid: {{nonzero_params: [1e3], ",
            "grid.nonzero_params",
            "brings the size: leave it out",
        ),
        ("{place}}}", "{place}, d_ff: 16}}", "model.d_ff", "brings the shape: leave it out"),
        ("{place}", "/nowhere", "model.start_from", "there is no checkpoint at /nowhere"),
        (", start_from: {place}", "", "grid.nonzero_params", "name at least one size, or a checkpoint"),
    ],
)
def test_a_spec_that_starts_badly_is_told(old: str, new: str, path: str, said: str, t5: Path) -> None:
    with pytest.raises(SpecError) as refused:
        load_spec(SPEC.replace(old, new, 1).format(place=t5))
    assert [(one.path, said in one.message) for one in refused.value.problems] == [(path, True)]
