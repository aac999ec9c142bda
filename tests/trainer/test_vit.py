"""The vit family on scikit-learn's digits: prepared once, shaped by the rule, exact, and it learns."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainer.conftest import Recorder, checksums
from trainer.data import DataSource, Prepared, find, prepare
from trainer.data.batches import Batches
from trainer.errors import DataError, ShapeError
from trainer.families.vit import counted, initial, prunable, shrinks_with_width
from trainer.metrics import NoSink
from trainer.models import build
from trainer.program import DataStream, LearningRate, Numerics, Program, ProgramError, Pruning
from trainer.segment import train_segment
from trainer.shapes import shape_for

MODEL: dict[str, Any] = {
    **{"d_model": 16, "heads": 2, "d_ff": 64, "layers": 2},
    **{"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10},
}


def program(
    digits: Prepared, steps: int, model: dict[str, Any] | None = None, batch: int = 32, **options: Any
) -> Program:
    return Program(
        family="vit",
        shape=shape_for("vit", 12 * 16**2 * 2, {**MODEL, **(model or {})}).dims,
        data=DataStream(
            digest=digits.digest,
            objective="image-classification",
            evaluation_batches=4,
            evaluation_batch_size=0 if batch == 32 else 2,
        ),
        batch_size=batch,
        steps=steps,
        **{"learning_rate": LearningRate(base=0.3, warmup=20), **options},
    )


def train(chosen: Program, start: int, end: int, digits: Prepared, output: Path, **options: Any) -> Any:
    arguments = {"parent": None, "sink": NoSink(), **options}
    return train_segment(chosen, start, end, data=digits.path, output=str(output), **arguments)


def test_every_digit_is_there_with_its_label(digits: Prepared) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    rows = np.concatenate([digits.tokens(split).reshape(-1, 66) for split in ("train", "validation")])
    expected = {
        bytes([label, 0, *np.round(image.ravel() * (255 / 16)).astype(np.uint8)])
        for image, label in zip(source.images, source.target, strict=True)
    }
    assert {row.tobytes() for row in rows} == expected
    assert digits.vocab_size == 10
    assert digits.manifest["image"] == {"height": 8, "width": 8, "channels": 1}
    assert 0.1 < digits.validation_tokens / (digits.train_tokens + digits.validation_tokens) < 0.3


def test_a_cap_counts_images(tmp_path: Path) -> None:
    capped = prepare(DataSource(source="digits", validation_share=0.2, max_tokens=100), tmp_path)
    assert capped.train_tokens == 100 * 66
    assert find(DataSource(source="digits", validation_share=0.2), tmp_path) is None


def test_an_image_table_is_decoded_and_resized(tmp_path: Path) -> None:
    import pandas as pd
    from PIL import Image

    def png(shade: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.new("RGB", (5, 7), (shade, 0, 255)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    import datasets

    table = datasets.Dataset.from_pandas(
        pd.DataFrame({"picture": [png(shade) for shade in range(40)], "kind": [i % 3 for i in range(40)]})
    ).cast_column("picture", datasets.Image())
    table.to_parquet(tmp_path / "pictures.parquet")
    source = DataSource(
        source=str(tmp_path / "pictures.parquet"),
        image_column="picture",
        label_column="kind",
        image_size=4,
        validation_share=0.3,
    )
    made = prepare(source, tmp_path / "data")
    assert made.manifest["image"] == {"height": 4, "width": 4, "channels": 3}
    assert made.vocab_size == 3
    rows = np.concatenate([made.tokens(split).reshape(-1, 50) for split in ("train", "validation")])
    assert sorted(rows[:, 2].tolist()) == list(range(40))
    assert (rows[:, 0] == rows[:, 2] % 3).all()


def _pictures(folder: Path, labels: list[Any], size: tuple[int, int] = (5, 7)) -> Path:
    """A parquet table of one-coloured pictures: number i has shade i in its red channel."""
    import datasets
    import pandas as pd
    from PIL import Image

    def png(shade: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.new("RGB", size, (shade, 0, 255)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    table = datasets.Dataset.from_pandas(
        pd.DataFrame({"picture": [png(shade) for shade in range(len(labels))], "kinds": labels})
    ).cast_column("picture", datasets.Image())
    table.to_parquet(folder / "pictures.parquet")
    return folder / "pictures.parquet"


@pytest.fixture(scope="module")
def many_labels(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Sixty pictures of 8 × 8 with none to three labels of six: those that divide its number, and 5 for the others."""
    folder = tmp_path_factory.mktemp("many")
    labels = [[kind for kind in range(1, 4) if number % (kind + 1) == 0] for number in range(60)]
    source = DataSource(
        source=str(_pictures(folder, labels)),
        image_column="picture",
        label_column="kinds",
        image_size=8,
        max_labels=3,
        validation_share=0.3,
    )
    return prepare(source, folder / "data")


def test_several_labels_an_image_are_kept(many_labels: Prepared) -> None:
    stream = DataStream(digest=many_labels.digest, objective="image-classification", evaluation_batches=1)
    batch = Batches(stream, many_labels, batch_size=8, seed=0).train(0)
    assert batch["labels"].shape == (8, 3)
    shades = np.round((batch["pixels"][:, 0, 0, 0] + 1) * 127.5).astype(int)
    for shade, labels in zip(shades, batch["labels"], strict=True):
        assert [label for label in labels if label >= 0] == [
            kind for kind in range(1, 4) if shade % (kind + 1) == 0
        ]


def test_the_sigmoid_loss_is_that_of_multi_hot_targets(many_labels: Prepared) -> None:
    dims = shape_for("vit", 12 * 16**2 * 2, {**MODEL, "channels": 3, "classes": 6, "loss": "sigmoid"}).dims
    network = build("vit", dims, 0, z_loss=0.0)
    with torch.no_grad():
        network.module.get_parameter("classifier.bias").copy_(torch.linspace(-2, 2, 6))
    pixels = torch.randn(3, 3, 8, 8)
    labels = torch.tensor([[0, 4, 5], [2, -1, -1], [-1, -1, -1]])
    wanted = torch.tensor([[1, 0, 0, 0, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.float32)
    chance = torch.sigmoid(network.module(pixel_values=pixels).logits)
    expected = -(wanted * chance.log() + (1 - wanted) * (1 - chance).log()).sum(1).mean()
    torch.testing.assert_close(network.loss({"pixels": pixels, "labels": labels}).train, expected)


def test_our_pass_is_the_librarys_to_the_bit() -> None:
    dims = shape_for("vit", 12 * 16**2 * 2, MODEL).dims
    network = build("vit", dims, 3, z_loss=0.0)
    pixels, labels = torch.randn(5, 1, 8, 8), torch.tensor([[0], [3], [9], [9], [1]])
    parameters = list(network.module.parameters())
    ours = network.loss({"pixels": pixels, "labels": labels}).train
    theirs = network.module(pixel_values=pixels).logits
    assert torch.equal(network.logits(pixels), theirs)  # type: ignore[attr-defined]
    expected = torch.autograd.grad(F.cross_entropy(theirs, labels[:, 0]), parameters)
    for found, wanted in zip(torch.autograd.grad(ours, parameters), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_softmax_refuses_images_of_several_labels(many_labels: Prepared, tmp_path: Path) -> None:
    options = {"channels": 3, "classes": 6}
    with pytest.raises(DataError, match="softmax needs exactly one label an image"):
        train(program(many_labels, 4, options), 0, 4, many_labels, tmp_path)
    chosen = program(many_labels, 3, {**options, "loss": "sigmoid"}, batch=8)
    result = train(chosen, 0, 3, many_labels, tmp_path)
    assert math.isfinite(result.loss)


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ([[1, 2], [3], [1, 2, 3], [0]] * 5, {"max_labels": 2}, "an image has 3 labels, there is room for 2"),
        (["cat", "dog"] * 10, {}, "has the label 'cat': class numbers, or lists of them, are needed"),
        ([70_000] * 20, {}, "label 70000 is no class number"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    labels: list[Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    source = DataSource(
        source=str(_pictures(tmp_path, labels)), image_column="picture", label_column="kinds", **options
    )
    with pytest.raises(DataError, match=said):
        prepare(source, tmp_path / "data")


def test_augmentations_move_and_mirror_and_depend_on_seed_and_step_only(digits: Prepared) -> None:
    plain = Batches(program(digits, 4).data, digits, batch_size=32, seed=0)
    stream = dataclasses.replace(program(digits, 4).data, random_flip=True, crop_padding=1)
    changed = Batches(stream, digits, batch_size=32, seed=0)
    before, after = plain.train(1), changed.train(1)
    assert np.array_equal(before["labels"], after["labels"])

    def changes(index: int) -> list[tuple[bool, int, int]]:
        """What was done to each image of a batch: mirrored or not, and by what it was shifted."""
        found = []
        batches = plain.train(index)["pixels"][:, 0], changed.train(index)["pixels"][:, 0]
        for image, result in zip(*batches, strict=True):
            wide = np.pad(image, 1, constant_values=-1.0)
            ways = [
                (flip, top, left)
                for flip, top, left in itertools.product((False, True), range(3), range(3))
                if np.array_equal((wide[:, ::-1] if flip else wide)[top : top + 8, left : left + 8], result)
            ]
            assert ways, "each is a shift of the image or of its mirror image"
            found.append(ways[0])
        return found

    first, second, third = changes(1), changes(2), changes(3)
    assert 6 < sum(flip for flip, *_ in first) < 26
    assert {way[1:] for way in first + second + third} == set(itertools.product(range(3), range(3)))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 16, "each step has its own"
    again = Batches(stream, digits, batch_size=32, seed=0)
    assert np.array_equal(again.train(1)["pixels"], after["pixels"])
    assert np.array_equal(plain.validation(0)["pixels"], changed.validation(0)["pixels"]), "for training only"
    assert program(digits, 4).key_at(2) != Program.from_dict(
        {**program(digits, 4).to_dict(), "data": dataclasses.asdict(stream)}
    ).key_at(2)


def test_batches_are_pixels_and_labels(digits: Prepared) -> None:
    batches = Batches(program(digits, 4).data, digits, batch_size=32, seed=0)
    batch = batches.train(2)
    assert batch["pixels"].shape == (32, 1, 8, 8)
    assert batch["pixels"].dtype == np.float32
    assert batch["pixels"].min() == -1
    assert batch["pixels"].max() == 1
    assert batch["labels"].shape == (32, 1)
    assert set(batch["labels"].ravel()) <= set(range(10))
    assert batches.tokens_per_batch == 32 * counted(512), "D counts images"


@pytest.mark.parametrize("rule", ["paper", "linear"])
def test_counts_are_those_of_the_model_that_is_built(rule: str) -> None:
    shape = shape_for("vit", 12 * 20**2 * 2, {**MODEL, "shape_rule": rule, "multiple_of": 4})
    module = build("vit", shape.dims, 0, z_loss=0.0).module
    parameters = dict(module.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == shape.total
    linear = [
        parameter.numel()
        for name, parameter in parameters.items()
        if prunable(name, parameter.dim()) and not shrinks_with_width(name)
    ]
    assert sum(linear) == shape.linear
    assert shape.flops_per_token == 6 * shape.linear * 17


def test_the_papers_base_is_reached_exactly() -> None:
    shape = shape_for("vit", 12 * 12 * 768**2, {})
    assert (shape.dims["d_model"], shape.dims["d_ff"], shape.linear) == (768, 3072, 12 * 12 * 768**2)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"patch_size": 3}, "patches of 3 do not tile an image of 8"),
        ({"loss": "hinge"}, "use softmax or sigmoid"),
        ({"shape_rule": "best"}, "use paper or linear"),
    ],
)
def test_unreachable_shapes_are_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        shape_for("vit", 1e5, {**MODEL, **model})


def test_initial_values_follow_the_rule() -> None:
    dims = shape_for("vit", 12 * 128**2, {**MODEL, "d_model": 128, "d_ff": 512, "layers": 1}).dims
    module = build("vit", dims, 0, z_loss=0.0).module
    expected = {
        "q_proj.weight": 128**-0.5,
        "o_proj.weight": 128**-0.5,
        "fc1.weight": 128**-0.5,
        "fc2.weight": 512**-0.5,
        "projection.weight": 4**-0.5,
        "classifier.weight": 128**-0.5,
        "position_embeddings": 128**-0.5,
    }
    found = set()
    for name, parameter in module.named_parameters():
        value = parameter.detach()
        if name.endswith(("bias", "cls_token")):
            assert not value.any(), name
        elif "layernorm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
        for ending, deviation in expected.items():
            if name.endswith(ending):
                found.add(ending)
                close = 4 / (2 * value.numel()) ** 0.5
                assert float(value.std()) == pytest.approx(deviation, rel=close), name
                assert abs(float(value.mean())) < 5 * deviation * value.numel() ** -0.5, name
    assert found == set(expected)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_is_the_one_that_is_asked_for(loss: str, digits: Prepared) -> None:
    dims = program(digits, 4, {"loss": loss}).shape
    network = build("vit", dims, 0, z_loss=0.0)
    batch = {"pixels": torch.randn(5, 1, 8, 8), "labels": torch.tensor([[0], [3], [9], [3], [1]])}
    logits = network.module(pixel_values=batch["pixels"]).logits
    if loss == "softmax":
        expected = F.cross_entropy(logits, batch["labels"][:, 0])
    else:
        wanted = torch.zeros(5, 10).scatter_(1, batch["labels"], 1.0)
        chance = torch.sigmoid(logits)
        expected = -(wanted * chance.log() + (1 - wanted) * (1 - chance).log()).sum(1).mean()
        assert initial("classifier.bias", dims).mean == -10
        assert (network.module.get_parameter("classifier.bias") == -10).all()
    torch.testing.assert_close(network.loss(batch).train, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_segments_are_exact_and_embeddings_keep_their_rule(
    pattern: str, digits: Prepared, tmp_path: Path
) -> None:
    pruning = Pruning(sparsity=0.5, pattern=pattern, start=4, end=16, every=4)
    chosen = program(digits, 20, pruning=pruning)
    alone = train(chosen, 0, 20, digits, tmp_path / "a")
    half = train(chosen, 0, 9, digits, tmp_path / "b")
    rest = train(chosen, 9, 20, digits, tmp_path / "b", parent=half.checkpoint)
    assert rest.loss == alone.loss
    assert checksums(rest.checkpoint) == checksums(alone.checkpoint)
    assert rest.nonzero_params == rest.dense_params // 2
    head, _ = rest.per_layer["classifier.weight"]
    assert head == round(160 * math.sqrt(0.5))
    assert not any("position" in name or "cls" in name for name in rest.per_layer)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_it_learns(loss: str, digits: Prepared, tmp_path: Path) -> None:
    recorder = Recorder()
    chosen = program(digits, 100, {"loss": loss})
    train(chosen, 0, 100, digits, tmp_path, sink=recorder, evaluate_every=20)
    losses = recorder.values("validation_loss")
    assert losses[100] < 0.7 * losses[20]
    if loss == "softmax":
        assert losses[100] < math.log(10) / 2


def test_data_and_model_must_agree(digits: Prepared, prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the images are 8 × 8 × 1, the model reads 16 × 16 × 1"):
        train(program(digits, 4, {"image_size": 16}), 0, 4, digits, tmp_path)
    with pytest.raises(DataError, match=r"10 classes, the model 5: raise model.classes"):
        train(program(digits, 4, {"classes": 5}), 0, 4, digits, tmp_path)
    with pytest.raises(DataError, match="the data are text"):
        train(program(prepared, 4), 0, 4, prepared, tmp_path)
    with pytest.raises(ProgramError, match="label_smoothing is of a softmax"):
        dataclasses.replace(program(digits, 4, {"loss": "sigmoid"}), numerics=Numerics(label_smoothing=0.1))
