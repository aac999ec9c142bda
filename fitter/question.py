"""The question that a sweep answers best, for whoever has not asked one yet."""

from __future__ import annotations

import math

import numpy as np

from fitter.errors import SettingError
from fitter.law import Law

#: Budgets that are tried, as multiples of what a dense model of that size takes for the longest run's data.
_BUDGETS = (16.0, 8.0, 4.0, 2.0, 1.0)
#: What counts as sparse: below it an answer is as good as dense.
_SPARSE = 0.05


def first_question(law: Law) -> tuple[float, float]:
    """N and C, of the sizes and budgets of the runs that the law was fitted to.

    The first at which sparsity pays and the answer lies within what was trained, from the largest size and budget on;
    else the first within; else the middle size with four times the budget of its longest dense run.

    Raises:
        SettingError: the law does not say what it was fitted to, or does not depend on sparsity.
    """
    ranges = law.diagnostics.get("ranges") or {}
    if "nonzero_params" not in ranges or "data" not in ranges:
        raise SettingError("this law does not say which runs it was fitted to: name N and C")
    (small, large), longest = ranges["nonzero_params"], ranges["data"][1]
    middle = math.sqrt(small * large)
    sizes = np.repeat([large, middle, small], len(_BUDGETS))
    flops = 6.0 * sizes * longest * np.tile(_BUDGETS, 3)
    best = law.optimum(sizes, flops)
    within = ~best.extrapolates
    for found in (within & (best.sparsity > _SPARSE), within):
        if found.any():
            place = int(found.argmax())
            return float(sizes[place]), float(flops[place])
    return middle, 24.0 * middle * longest
