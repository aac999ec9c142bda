"""The first question: one that the runs answer, sparse where sparsity pays."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fitter.errors import SettingError
from fitter.law import Law
from fitter.question import first_question
from tests.fitter.designs import OPTIMUM_T5


def ranged(**ranges: tuple[float, float]) -> Law:
    document: dict[str, Any] = Law.known(OPTIMUM_T5).document()
    document["diagnostics"] = {"ranges": {name: list(ends) for name, ends in ranges.items()}}
    return Law.from_document(document)


def test_it_is_sparse_and_within_what_was_trained_where_sparsity_pays_there() -> None:
    """The paper's T5 sweep: its largest models saw too little data for sparsity to pay, its smallest ones enough."""
    law = ranged(sparsity=(0, 0.875), nonzero_params=(1.33e6, 84.9e6), data=(1.6e10, 6.6e10))
    best = law.optimum(*first_question(law))
    assert best.sparsity > 0.05
    assert not best.extrapolates


def test_where_sparsity_does_not_pay_it_is_the_largest_dense_model_that_was_trained() -> None:
    law = ranged(sparsity=(0, 0.875), nonzero_params=(1e8, 1e9), data=(1e9, 2e9))
    assert law.optimum(*first_question(law)).sparsity < 0.05
    assert first_question(law) == (1e9, 6 * 1e9 * 2e9)


def test_where_nothing_lies_within_it_is_the_middle_with_four_times_the_longest_budget() -> None:
    # All runs were sparse: whatever dense or nearly dense model is best was never trained.
    law = ranged(sparsity=(0.9, 0.95), nonzero_params=(1e8, 1e10), data=(1e9, 2e9))
    n, flops = first_question(law)
    assert (n, flops) == (pytest.approx(1e9), pytest.approx(4 * 6 * 1e9 * 2e9))
    assert law.optimum(n, flops).extrapolates


def test_a_law_that_does_not_say_what_it_was_fitted_to_has_none() -> None:
    with pytest.raises(SettingError, match="name N and C"):
        first_question(Law.known(OPTIMUM_T5))
    assert math.isfinite(first_question(ranged(nonzero_params=(1e6, 1e8), data=(1e9, 1e10)))[0])
