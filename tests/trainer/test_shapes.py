"""Shapes: the paper's rule, the true counts, and what no dimensions reach."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from trainer.errors import ShapeError
from trainer.families import FAMILIES, rules
from trainer.models.t5 import build
from trainer.shapes import LARGEST_ERROR, model_options, shape_for

BASE = 24 * 12 * 768**2


@pytest.mark.parametrize(
    ("scale", "width", "hidden"),
    # int(768·√s)//12·12 and int(2048·√s), worked out by hand.
    [
        (1, 768, 2048),
        (1 / 2, 540, 1448),
        (1 / 4, 384, 1024),
        (1 / 8, 264, 724),
        (1 / 128, 60, 181),
        (1 / 32, 132, 362),
    ],
)
def test_the_paper_rule_gives_the_papers_widths(scale: float, width: int, hidden: int) -> None:
    shape = shape_for("t5", BASE * scale, {})
    assert (shape.dims["d_model"], shape.dims["d_ff"]) == (width, hidden)
    assert shape.dims["d_kv"] * 12 == width
    assert shape.nominal == round(BASE * scale)


def test_true_counts_stay_within_the_range_that_the_paper_states() -> None:
    for target in (1.33e6, 5.3e6, 21.2e6, 84.9e6, 339.7e6):
        shape = shape_for("t5", target, {})
        assert 0.90 < shape.linear / shape.nominal < 1.18


@pytest.mark.parametrize("rule", ["paper", "linear"])
@pytest.mark.parametrize("multiple_of", [1, 4])
def test_counts_are_those_of_the_model_that_is_built(rule: str, multiple_of: int) -> None:
    model = {"d_model": 64, "heads": 4, "d_ff": 172, "encoder_layers": 2, "decoder_layers": 1}
    shape = shape_for(
        "t5", 12 * 48**2 * 3.3, {**model, "vocab_size": 100, "shape_rule": rule, "multiple_of": multiple_of}
    )
    module = build(shape.dims, z_loss=0.0).module
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    family = rules("t5")
    linear = sum(
        size
        for name, size in sizes.items()
        if family.prunable(name, module.get_parameter(name).dim()) and not family.shrinks_with_width(name)
    )
    assert sum(sizes.values()) == shape.total
    assert linear == shape.linear
    assert shape.flops_per_token == 6 * linear


@given(st.floats(1e5, 1e9), st.sampled_from([1, 2, 4, 8]))
def test_the_linear_rule_comes_as_near_as_one_unit_of_d_ff(target: float, multiple_of: int) -> None:
    shape = shape_for("t5", target, {"shape_rule": "linear", "multiple_of": multiple_of})
    unit = 3 * 24 * shape.dims["d_model"] * multiple_of
    assert abs(shape.linear - target) <= unit
    assert shape.error == pytest.approx(shape.linear / target - 1)


@given(st.floats(1e6, 1e9), st.sampled_from([4, 8, 16]))
def test_every_group_divides(target: float, multiple_of: int) -> None:
    try:
        dims = shape_for("t5", target, {"multiple_of": multiple_of}).dims
    except ShapeError:  # the smallest widths cannot be rounded to whole groups and hit the target
        assert target < 2e7
        reject()
    assert dims["d_model"] % multiple_of == 0
    assert dims["d_ff"] % multiple_of == 0
    assert dims["d_kv"] * dims["heads"] == dims["d_model"]


@pytest.mark.parametrize(
    ("target", "model", "said"),
    [
        (100, {}, "too small for 12 heads"),
        (math.nan, {}, "no size"),
        (-5, {}, "no size"),
        (1e6, {"layers": 3}, "'layers' is unknown"),
        (1e6, {"heads": 0}, "at least 1"),
        (1e6, {"heads": True}, "whole number"),
        (1e6, {"heads": "4"}, "whole number"),
        (1e6, {"shape_rule": "best"}, "use paper or linear"),
        (2e5, {"shape_rule": "linear", "multiple_of": 64}, "nothing for the feed-forward"),
    ],
)
def test_what_gives_no_model_is_refused_with_the_reason(
    target: float, model: dict[str, object], said: str
) -> None:
    with pytest.raises(ShapeError, match=said):
        shape_for("t5", target, model)


LISTED = [
    {"d_model": 16, "d_ff": 40, "heads": 2},
    {"d_model": 32, "d_ff": 96},
    {"d_model": 32, "d_ff": 96, "layers": 4},
]


def test_listed_shapes_are_taken_as_they_are_the_nearest_by_its_true_count() -> None:
    model = {"layers": 2, "heads": 4, "shapes": LISTED}
    for entry in LISTED:
        layers = entry.get("layers", 2)
        count = layers * (4 * entry["d_model"] ** 2 + 3 * entry["d_model"] * entry["d_ff"])
        shape = shape_for("decoder", 1.1 * count, model)
        assert {name: shape.dims[name] for name in entry} == entry
        assert shape.linear == count
        assert shape.error == pytest.approx(1 / 1.1 - 1)


@pytest.mark.parametrize(
    ("family", "model", "said"),
    [
        ("decoder", {"heads": 4, "shapes": LISTED}, "list a shape of that size in model.shapes"),
        ("t5", {}, "use shape_rule: linear, fewer heads"),
    ],
)
def test_a_shape_too_far_from_its_target_is_refused(family: str, model: dict[str, object], said: str) -> None:
    with pytest.raises(ShapeError, match=rf"off the 600,000 that are asked for.*{said}"):
        shape_for(family, 6e5, model)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ("large", "must be a list of mappings"),
        ([{"d_model": 64}], r"shapes\[0\] is .* each names d_model and d_ff"),
        ([{"d_model": 64, "d_ff": 1.5}], r"shapes\[0\].d_ff is 1.5: it must be a whole number"),
        ([{"d_model": 64, "d_ff": 128, "width": 3}], "each names d_model and d_ff, and may name heads"),
        ([{"d_model": 50, "d_ff": 128, "heads": 4}], "4 heads do not divide d_model 50"),
        ([{"d_model": 36, "d_ff": 128, "heads": 4}], "heads of width 9 are odd"),
    ],
)
def test_listed_shapes_that_are_none_are_refused(shapes: object, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        shape_for("decoder", 1e5, {"shapes": shapes})


@given(st.sampled_from(FAMILIES), st.floats(1e4, 1e9), st.sampled_from(["paper", "linear"]))
def test_no_shape_is_farther_from_its_target_than_the_bound(family: str, target: float, rule: str) -> None:
    try:
        shape = shape_for(family, target, {"shape_rule": rule, "heads": 2})
    except ShapeError:
        return
    assert abs(shape.error) <= LARGEST_ERROR


def test_an_unknown_family_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ShapeError, match=r"'bert' is unknown: use one of decoder, encoder, t5, vit"):
        model_options("bert")
