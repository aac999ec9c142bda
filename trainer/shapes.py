"""From a parameter target to the dimensions of a model. Pure Python: plans are made on machines without torch.

A family says how its dimensions follow from two widths and how its weights are counted
(`trainer/families/<family>.py`); the rules that find the widths are in `trainer/families/scale.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer import families
from trainer.errors import ShapeError
from trainer.families.scale import check_target, widths

#: A shape farther than this from its target is refused. The paper's own rule misses by 22 % at its smallest size.
LARGEST_ERROR = 0.25

#: Options that every family has beside its own. `shape_rule`: `paper` scales d_ff like the width; `linear` picks d_ff
#: so that the true count of linear weights fits. `shapes`: where it is not empty, the only shapes there are.
COMMON_OPTIONS: dict[str, Any] = {"shape_rule": "paper", "multiple_of": 1, "shapes": []}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of one model, and its size by every count in use.

    dims: goes into `Program.shape`; all that the model builder needs.
    nominal: dense parameters by the paper's formula, 12·d² a layer at the unrounded width: the law's N for S = 0.
    linear: the true number of prunable linear weights (no embeddings, no head, no norms).
    total: all parameters.
    flops_per_token: training FLOPs per input position of the dense model, 6·`linear` (forward 2, backward 4).
    error: relative error of the rounded dimensions against the target, at most LARGEST_ERROR.
    """

    dims: dict[str, int]
    nominal: int
    linear: int
    total: int
    flops_per_token: float
    error: float


def shape_for(family: str, dense_params: float, model: Mapping[str, Any]) -> Shape:
    """The shape of `family` with about `dense_params` encoder/decoder weights, by the rule that `model` names.

    `model` is the spec's `model:` mapping (its key `family` is ignored). Where it lists `shapes`, the one nearest to
    the target by its true count of linear weights. Raises ShapeError on an unknown family or option, on a wrong type,
    and on a target that no dimensions reach within LARGEST_ERROR.
    """
    rules = _rules(family)
    options = _options(family, model_options(family), model)
    check_target(dense_params)
    layers = rules.stack(options).layers
    if options["shapes"]:
        dims = _listed(family, rules, options, dense_params)
        reached = rules.linear_count(dims)
        nominal = 12 * dims["d_model"] ** 2 * layers
    else:
        width, hidden = widths(family, rules.stack(options), options, dense_params)
        dims = rules.dims(options, width, hidden)
        linear = options["shape_rule"] == "linear"
        reached = rules.linear_count(dims) if linear else 12 * width**2 * layers
        nominal = round(dense_params)
    error = reached / dense_params - 1
    if abs(error) > LARGEST_ERROR:
        raise ShapeError(
            f"the nearest {family} has {reached:,} weights, {error:+.1%} off the {dense_params:,.0f} that are asked "
            f"for, and at most {LARGEST_ERROR:.0%} is let pass: {_way_out(options)}"
        )
    return Shape(
        dims=dims,
        nominal=nominal,
        linear=rules.linear_count(dims),
        total=rules.total_count(dims),
        flops_per_token=rules.flops_per_input(dims),
        error=error,
    )


def shape_of(family: str, dims: Mapping[str, int]) -> Shape:
    """The shape of a model that exists, such as a checkpoint's: it is its own target."""
    rules = _rules(family)
    layers = rules.stack(dims).layers
    return Shape(
        dims=dict(dims),
        nominal=12 * dims["d_model"] ** 2 * layers,
        linear=rules.linear_count(dims),
        total=rules.total_count(dims),
        flops_per_token=rules.flops_per_input(dims),
        error=0.0,
    )


def model_options(family: str) -> dict[str, Any]:
    """Option name → default of the spec's `model:` mapping for this family. Raises ShapeError on an unknown one."""
    return {**_rules(family).OPTIONS, **COMMON_OPTIONS}


def _rules(family: str) -> Any:
    try:
        return families.rules(family)
    except KeyError:
        raise ShapeError(f"family {family!r} is unknown: use one of {', '.join(families.FAMILIES)}") from None


def _way_out(options: Mapping[str, Any]) -> str:
    if options["shapes"]:
        return "list a shape of that size in model.shapes"
    if options["shape_rule"] == "paper":
        return "use shape_rule: linear, fewer heads, or another size"
    return "use a smaller multiple_of, fewer heads, or another size"


def _listed(family: str, rules: Any, options: Mapping[str, Any], dense_params: float) -> dict[str, int]:
    """The dimensions of the entry of `shapes` whose true count is nearest, the first of equals."""
    found = []
    for entry in options["shapes"]:
        whole = {**options, **entry}
        if whole["d_model"] % whole["heads"]:
            raise ShapeError(
                f"{family} in model.shapes: {whole['heads']} heads do not divide d_model {whole['d_model']}"
            )
        found.append(rules.dims(whole, whole["d_model"], whole["d_ff"]))
    return min(found, key=lambda dims: abs(rules.linear_count(dims) / dense_params - 1))


def _options(family: str, defaults: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(defaults)
    for name, value in model.items():
        if name == "family":
            continue
        if name not in defaults:
            raise ShapeError(f"model option {name!r} is unknown for {family}: use {', '.join(defaults)}")
        default = defaults[name]
        if isinstance(default, int):
            _check_number(f"model option {name}", value)
        elif isinstance(default, str) and not isinstance(value, str):
            raise ShapeError(f"model option {name} is {value!r}: it must be a word such as {default!r}")
        elif isinstance(default, list):
            _check_listed(family, defaults, value)
        options[name] = value
    return options


def _check_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ShapeError(f"{what} is {value!r}: it must be a whole number")
    if value < 1:
        raise ShapeError(f"{what} is {value}: it must be at least 1")


def _check_listed(family: str, defaults: Mapping[str, Any], shapes: object) -> None:
    numbers = [name for name, value in defaults.items() if isinstance(value, int) and name != "multiple_of"]
    if not isinstance(shapes, list):
        raise ShapeError("model option shapes must be a list of mappings such as {d_model: 64, d_ff: 172}")
    for index, entry in enumerate(shapes):
        if not isinstance(entry, Mapping) or not {"d_model", "d_ff"} <= set(entry) <= set(numbers):
            raise ShapeError(
                f"model option shapes[{index}] is {entry!r}: each names d_model and d_ff, and may name "
                f"{', '.join(name for name in numbers if name not in ('d_model', 'd_ff'))}"
            )
        for name, value in entry.items():
            _check_number(f"model option shapes[{index}].{name}", value)
