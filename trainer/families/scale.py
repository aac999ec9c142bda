"""The paper's scale rule for widths (RECIPE section 3): heads and layers fixed, widths by the root of the scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from trainer.errors import ShapeError


class Stack(NamedTuple):
    """How a family's linear weights grow: attention · d² + feed_forward · d · d_ff.

    layers: those that the nominal count takes at 12·d² each. head_unit: what the width of a head must be a multiple of.
    """

    layers: int
    attention: int
    feed_forward: int
    head_unit: int = 1


def widths(family: str, stack: Stack, options: Mapping[str, Any], dense_params: float) -> tuple[int, int]:
    """(d_model, d_ff) whose nominal (rule `paper`) or true (rule `linear`) count comes near `dense_params`.

    Raises ShapeError on an unknown rule, and where nothing is left of a width.
    """
    rule, multiple_of = options["shape_rule"], options["multiple_of"]
    if rule not in ("paper", "linear"):
        raise ShapeError(f"shape_rule {rule!r} is unknown for {family}: use paper or linear")
    factor = math.sqrt(dense_params / (12 * options["d_model"] ** 2 * stack.layers))
    heads = options["heads"]
    unit = multiple_of if stack.head_unit == 1 else math.lcm(multiple_of, stack.head_unit * heads)
    width = scaled_width(options["d_model"], heads, factor, unit)
    if rule == "paper":
        return width, scaled_hidden(options["d_ff"] * factor, multiple_of)
    left, per_unit = dense_params - stack.attention * width**2, stack.feed_forward * width
    if left < per_unit:
        raise ShapeError(
            f"beside attention of width {width} the target leaves nothing for the feed-forward layers: "
            "ask for more parameters, raise d_ff against d_model, or use shape_rule: paper"
        )
    return width, scaled_hidden(round(left / per_unit), multiple_of)


def scaled_width(width: int, heads: int, factor: float, multiple_of: int) -> int:
    """d = heads · (int(width · factor) // heads), moved to the nearest multiple of `multiple_of` that heads divide.

    Raises ShapeError where nothing is left of the width.
    """
    head_width = int(width * factor) // heads
    if multiple_of > 1:
        unit = multiple_of // math.gcd(heads, multiple_of)
        head_width = max(1, round(width * factor / heads / unit)) * unit
    if head_width < 1:
        raise ShapeError(
            f"a width of {width * factor:.1f} is too small for {heads} heads: "
            "ask for more parameters, or give the model fewer heads or layers"
        )
    return heads * head_width


def scaled_hidden(hidden: float, multiple_of: int) -> int:
    """The feed-forward width: truncated as the paper does, or rounded to the nearest multiple of `multiple_of`.

    Raises ShapeError where nothing is left of it.
    """
    value = int(hidden) if multiple_of <= 1 else max(1, round(hidden / multiple_of)) * multiple_of
    if value < 1:
        raise ShapeError(f"a feed-forward width of {hidden:.1f} is too small: ask for more parameters")
    return value


def check_target(dense_params: float) -> None:
    """Raises ShapeError unless the target is a positive finite number."""
    if not math.isfinite(dense_params) or dense_params < 1:
        raise ShapeError(f"{dense_params:g} parameters is no size for a model")
