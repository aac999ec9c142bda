"""How a model's sparsity is spread over its layers: pure functions of shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """The same sparsity in every layer: by far the better for T5 (RECIPE, reference losses)."""
    return dict.fromkeys(shapes, sparsity)


def erdos_renyi_kernel(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Density in proportion to (sum of dimensions)/(product of dimensions), at most 1 (Evci et al. 2020, ERK).

    The number of kept weights over all layers is that of `uniform`.
    """
    dense: set[str] = set()
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    while True:
        budget = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        factor = budget / sum(raw[name] * sizes[name] for name in shapes if name not in dense)
        full = {name for name in shapes if name not in dense and factor * raw[name] > 1}
        if not full:
            return {name: 0.0 if name in dense else 1 - factor * raw[name] for name in shapes}
        dense |= full


#: Distributions by the name that `Pruning.distribution` uses. `global` ranks all linear weights together, so its
#: layers get what the ranking leaves them; as a start each has the same.
DISTRIBUTIONS: Mapping[str, Callable[[Shapes, float], dict[str, float]]] = {
    "uniform": uniform,
    "erk": erdos_renyi_kernel,
    "global": uniform,
}
