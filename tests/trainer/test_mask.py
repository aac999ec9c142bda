"""The mask core against brute force: exact count, ties to the lower index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from trainer.program import Pruning
from trainer.pruning.mask import CORES, keep_count, keep_highest
from trainer.pruning.methods.window import cubic, is_update

SCORES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    # Few different values: ties everywhere.
    elements=st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.25]),
)

ANY_SCORES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(allow_nan=False, width=32),
)


def brute_force(scores: np.ndarray, keep: int) -> np.ndarray:
    order = sorted(range(scores.size), key=lambda index: (-scores.flat[index], index))
    mask = np.zeros(scores.size, bool)
    mask[order[:keep]] = True
    return mask.reshape(scores.shape)


@pytest.mark.parametrize("core", CORES.values(), ids=list(CORES))
@given(scores=SCORES | ANY_SCORES, share=st.floats(0, 1), on_device=st.booleans())
@settings(deadline=None)
def test_the_highest_are_kept_and_ties_go_to_the_lower_index(
    core: Callable[[torch.Tensor, int | torch.Tensor], torch.Tensor],
    scores: np.ndarray,
    share: float,
    on_device: bool,
) -> None:
    keep = round(share * scores.size)
    mask = core(torch.from_numpy(scores), torch.tensor(keep) if on_device else keep).numpy()
    assert mask.sum() == keep
    assert np.array_equal(mask, brute_force(scores, keep))


@pytest.mark.parametrize("core", CORES.values(), ids=list(CORES))
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -2.5, 1e-45, 3e38])
def test_equal_scores_keep_the_first(
    core: Callable[[torch.Tensor, int | torch.Tensor], torch.Tensor], value: float
) -> None:
    for keep in range(9):
        mask = core(torch.full((2, 4), value), keep)
        assert mask.flatten().tolist() == [place < keep for place in range(8)]


def test_a_compiled_core_is_compiled_once_for_every_count() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    scores = torch.rand(6, 8)
    for core in (CORES["cuda"], CORES["xla"]):
        graphs.clear()
        torch.compiler.reset()
        compiled = torch.compile(core, backend=count, fullgraph=True, dynamic=False)
        for keep in (0, 5, 17, 48):
            assert torch.equal(compiled(scores, torch.tensor(keep)), keep_highest(scores, keep))
        assert len(graphs) == 1


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [(100, 0.75, 25), (7, 0.5, 4), (3, 0.99, 1), (10, 0.0, 10), (1024, 0.875, 128)],
)
def test_keep_count_rounds_and_never_empties_a_layer(size: int, sparsity: float, kept: int) -> None:
    assert keep_count(size, sparsity) == kept


def test_the_cubic_schedule_is_the_papers() -> None:
    pruning = Pruning(sparsity=0.75, start=250, end=750, every=100)
    updates = [step for step in range(1000) if is_update(pruning, step)]
    assert updates == [300, 400, 500, 600, 700]
    pruning = Pruning(sparsity=0.75, start=200, end=600, every=100)
    assert [step for step in range(1000) if is_update(pruning, step)] == [200, 300, 400, 500, 600]
    for step in (200, 300, 500):
        progress = (step + 1 - 200) / 400
        assert cubic(pruning, step) == pytest.approx(1 - (1 - progress) ** 3, rel=1e-15)
    assert cubic(pruning, 600) == 1
