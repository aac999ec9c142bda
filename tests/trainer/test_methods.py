"""Every method, pattern and distribution: the target is hit exactly, and a cut anywhere changes no bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.trainer.conftest import Recorder, checksums
from trainer import checkpoint
from trainer.data import Prepared
from trainer.devices import device_for
from trainer.errors import TrainerError
from trainer.metrics import NoSink
from trainer.program import Program, ProgramError, Pruning, first_update
from trainer.pruning import pruner
from trainer.pruning.distributions import erdos_renyi_kernel
from trainer.pruning.mask import keep_count, keep_highest_in_groups
from trainer.pruning.methods import METHODS, method_for
from trainer.result import SegmentResult
from trainer.run import Run
from trainer.segment import train_segment

Make = Callable[..., Program]

STEPS = 24
QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"

#: method → its window in a run of 24 steps.
WINDOWS = {
    "gmp": (6, 18, 2),
    "acdc": (4, 20, 4),
    "ste": (6, 18, 2),
    "sr-ste": (6, 18, 2),
    "rigl": (0, 18, 3),
    "set": (0, 18, 3),
    "static": (0, 0, 1),
    "oneshot": (12, 12, 4),
    "imp": (4, 19, 5),
}

CASES = [(method, "unstructured", "uniform") for method in METHODS] + [
    ("gmp", "2:4", "uniform"),
    ("gmp", "1:4", "uniform"),
    ("gmp", "2:8", "uniform"),
    ("static", "2:4", "uniform"),
    ("sr-ste", "2:4", "uniform"),
    ("acdc", "2:8", "uniform"),
    ("gmp", "block:2x4", "uniform"),
    ("ste", "block:4x2", "uniform"),
    ("gmp", "block:4x4", "erk"),
    ("gmp", "channel", "uniform"),
    ("imp", "2:8", "uniform"),
    ("acdc", "channel", "uniform"),
    ("static", "channel", "uniform"),
    ("gmp", "unstructured", "erk"),
    ("rigl", "unstructured", "erk"),
    ("gmp", "unstructured", "global"),
    ("ste", "unstructured", "global"),
]


def pruning(method: str, pattern: str = "unstructured", distribution: str = "uniform") -> Pruning:
    start, end, every = WINDOWS[method]
    sparsity = {"2:4": 0.5, "channel": 0.5}.get(pattern, 0.75)
    return Pruning(
        method=method,
        pattern=pattern,
        distribution=distribution,
        sparsity=sparsity,
        start=start,
        end=end,
        every=every,
    )


def train(
    program: Program, start: int, end: int, prepared: Prepared, output: Path, parent: str | None
) -> SegmentResult:
    return train_segment(
        program, start, end, data=prepared.path, parent=parent, output=str(output), sink=NoSink()
    )


@pytest.mark.parametrize(("method", "pattern", "distribution"), CASES)
def test_the_target_is_hit_and_a_cut_changes_no_bit(
    method: str, pattern: str, distribution: str, program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    chosen = program(steps=STEPS, pruning=pruning(method, pattern, distribution))
    alone = train(chosen, 0, STEPS, prepared, tmp_path / "alone", None)
    parent, begin = None, 0
    cut = sum(map(ord, method + pattern)) % 7
    for end in (first_update(chosen.pruning) + cut // 2 + 1, 13 + cut, STEPS):
        last = train(chosen, begin, end, prepared, tmp_path / "cut", parent)
        parent, begin = last.checkpoint, end
    assert last.loss == alone.loss
    assert checksums(last.checkpoint) == checksums(alone.checkpoint)

    target, masks = chosen.pruning.sparsity, checkpoint.load(alone.checkpoint, chosen).masks
    narrow = 1 - math.sqrt(1 - target)
    sizes = {name: size for name, (_, size) in alone.per_layer.items()}
    kept = {name: count for name, (count, _) in alone.per_layer.items()}
    linear = [name for name in sizes if name not in ("shared.weight", "lm_head.weight")]
    for name in sizes:
        wanted = keep_count(sizes[name], target if name in linear else narrow)
        if name in linear and distribution != "uniform":
            continue
        if method in ("rigl", "set"):
            # What is grown may stay at zero: embeddings of bytes that never occur, inputs that are silent.
            assert int(masks[name].sum()) == wanted
            assert kept[name] <= wanted
        else:
            assert kept[name] == wanted
    total = sum(keep_count(sizes[name], target) for name in linear)
    slack = len(linear) if distribution == "erk" or method in ("rigl", "set") else 0
    assert alone.nonzero_params == pytest.approx(total, abs=slack)


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_share_the_dense_trunk(
    method: str, program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    start, end, every = WINDOWS[method]
    end = 16 if method == "acdc" else max(end, 20)
    if method == "imp":
        end, every = 20, 4
    late = Pruning(method=method, sparsity=0.75, start=start + 4, end=end, every=every)
    chosen, dense = program(steps=STEPS, pruning=late), program(steps=30)
    fork = first_update(late)
    assert chosen.key_at(fork) == dense.key_at(fork)
    trunk = train(dense, 0, fork, prepared, tmp_path / "trunk", None)
    alone = train(chosen, 0, fork, prepared, tmp_path / "alone", None)
    assert trunk.loss == alone.loss
    assert checksums(trunk.checkpoint) == checksums(alone.checkpoint)


def advanced(program: Program, prepared: Prepared, steps: int) -> Run:
    run = Run(program, prepared, device_for("cpu"))
    for _ in range(steps):
        run.advance()
    return run


def test_nm_groups_are_exact_at_the_end(program: Make, prepared: Prepared) -> None:
    for pattern, kept, size in (("2:4", 2, 4), ("1:4", 1, 4), ("2:8", 2, 8)):
        run = advanced(program(steps=STEPS, pruning=pruning("gmp", pattern)), prepared, STEPS)
        for layer in run.pruner.layers:
            if layer.linear:
                mask = run.pruner.masks()[layer.name]
                assert (mask.reshape(-1, size).sum(1) == kept).all(), layer.name


GROUPED = arrays(np.float32, (3, 8), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0]))


@given(GROUPED, st.sampled_from([(2, 4), (1, 4), (2, 8), (3, 4), (1, 2)]), st.integers(1, 24))
@settings(deadline=None)
def test_groups_rank_first_and_ties_go_to_the_lower_index(
    scores: np.ndarray, groups: tuple[int, int], keep: int
) -> None:
    kept, size = groups
    first = set()
    for begin in range(0, scores.size, size):
        members = sorted(range(begin, begin + size), key=lambda index: (-scores.flat[index], index))
        first |= set(members[:kept])
    order = sorted(range(scores.size), key=lambda index: (index not in first, -scores.flat[index], index))
    expected = np.zeros(scores.size, bool)
    expected[order[:keep]] = True
    mask = keep_highest_in_groups(torch.from_numpy(scores), keep, kept, size).numpy()
    assert np.array_equal(mask, expected.reshape(scores.shape))
    # As off the CPU: the count is a tensor, and nothing branches on it.
    mask = keep_highest_in_groups(torch.from_numpy(scores), torch.tensor(keep), kept, size).numpy()
    assert np.array_equal(mask, expected.reshape(scores.shape))


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 weights along the last axis are no whole number of groups of 4"):
        keep_highest_in_groups(torch.ones(2, 6), 3, 2, 4)


def test_acdc_alternates_and_ends_sparse(program: Make, prepared: Prepared) -> None:
    run = Run(program(steps=STEPS, pruning=pruning("acdc")), prepared, device_for("cpu"))
    sparse = []
    for _ in range(STEPS):
        run.advance()
        sparse.append(run.pruner.density() < 1)
    assert sparse == [False] * 4 + [True] * 4 + [False] * 4 + [True] * 4 + [False] * 4 + [True] * 4


def test_straight_through_keeps_the_dense_weights_and_sees_the_masked(
    program: Make, prepared: Prepared
) -> None:
    run = advanced(program(steps=STEPS, pruning=pruning("ste")), prepared, STEPS)
    weights = run.state().weights
    assert (weights[QUERY] != 0).all()
    assert run.state().masks == {}
    assert run.counts()[QUERY] == (16, 64)
    masked = run.evaluate()
    for name, view in run._parameters.views.items():
        if name in run.pruner.masks() or name in run.counts():
            view.masked_fill_(
                torch.from_numpy(weights[name]).abs() < _threshold(weights[name], run, name), 0.0
            )
    assert run.evaluate() == masked, "evaluation masks as training does"


def _threshold(weights: np.ndarray, run: Run, name: str) -> float:
    return float(np.sort(np.abs(weights).ravel())[-run.counts()[name][0]])


def test_sr_ste_pulls_masked_weights_towards_zero(program: Make, prepared: Prepared) -> None:
    run = advanced(program(steps=STEPS, pruning=pruning("sr-ste")), prepared, 20)
    with run.seen(20):
        pass
    gradient = run._parameters.zeros()
    run.pruner.observe(20, gradient)
    decay = run._parameters.view_of(gradient)[QUERY]
    weight = run._parameters.views[QUERY]
    assert int((decay != 0).sum()) == 48
    torch.testing.assert_close(decay[decay != 0], 2e-4 * weight[decay != 0])


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_an_exchange_moves_the_right_weights_and_clears_their_state(
    method: str, program: Make, prepared: Prepared
) -> None:
    window = Pruning(method=method, sparsity=0.75, start=3, end=18, every=3)
    run = advanced(program(steps=STEPS, pruning=window), prepared, 4)
    drawn = Pruning(method="static", sparsity=0.75, start=3, every=3)
    static = advanced(program(steps=STEPS, pruning=drawn), prepared, 4)
    assert torch.equal(run.pruner.masks()[QUERY], static.pruner.masks()[QUERY]), (
        "it begins with what it draws"
    )
    while run.step < 6:
        run.advance()
    seen: dict[str, torch.Tensor] = {}
    observe, after_step = run.pruner.observe, run.pruner.after_step

    def of_gradient(step: int, gradient: torch.Tensor) -> None:
        seen["gradient"] = run._parameters.view_of(gradient)[QUERY].abs()
        observe(step, gradient)

    def of_updated(step: int) -> dict[str, torch.Tensor]:
        seen["updated"] = run._parameters.views[QUERY].abs()
        return after_step(step)

    run.pruner.observe, run.pruner.after_step = of_gradient, of_updated  # type: ignore[method-assign]
    new, by_gradient = set(), []
    for step in range(6, 19):
        before = run.pruner.masks()[QUERY]
        run.advance()
        after = run.pruner.masks()[QUERY]
        if step % 3:
            assert torch.equal(before, after)
            continue
        dropped = round(0.15 * (1 + math.cos(math.pi * (step - 3) / 15)) * 16)
        surviving = _highest(torch.where(before, seen["updated"], -1.0), 16 - dropped)
        assert bool(after[surviving].all()), "the weakest are those that go"
        assert int(after.sum()) == 16
        growth = torch.where(surviving, -1.0, seen["gradient"])
        by_gradient.append(torch.equal(after, surviving | _highest(growth, dropped)))
        grown = after & ~before
        new.add(tuple(grown.flatten().tolist()))
        assert (run._parameters.views[QUERY][grown] == 0).all()
        assert (run.group.optimizer.state(0)["v"][QUERY][grown] == 0).all()
        if step == 6:
            assert grown.any()
            assert bool((run.group.optimizer.state(0)["v"][QUERY][~grown] > 0).all())
    assert len(new) > 2, "each exchange is another one"
    assert all(by_gradient) is (method == "rigl")


def _highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The mask of so many highest scores, the first of equals before the others."""
    order = sorted(range(scores.numel()), key=lambda index: (-float(scores.flatten()[index]), index))
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(scores.shape)


def test_static_masks_are_random_but_fixed(program: Make, prepared: Prepared) -> None:
    chosen = program(steps=STEPS, pruning=pruning("static"))
    first, last = advanced(chosen, prepared, 1).pruner.masks(), advanced(chosen, prepared, 6).pruner.masks()
    other = advanced(program(steps=STEPS, pruning=pruning("static"), seed=1), prepared, 1).pruner.masks()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert not torch.equal(first[QUERY], other[QUERY])


def test_a_missed_target_ends_the_run(
    program: Make, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "keep_highest", lambda scores, keep: scores >= 0)
    chosen = program(steps=STEPS, pruning=pruning("gmp"))
    with pytest.raises(
        TrainerError, match=r"target sparsity was missed: .*shared.weight keeps 3072, not 1536"
    ):
        train(chosen, 0, STEPS, prepared, tmp_path, None)


@given(st.floats(0.05, 0.98))
def test_erk_keeps_as_many_weights_as_uniform(sparsity: float) -> None:
    shapes = {"a": (64, 64), "b": (64, 256), "c": (8, 8), "d": (4, 300)}
    found = erdos_renyi_kernel(shapes, sparsity)
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    assert all(0 <= value < 1 for value in found.values())
    kept = sum((1 - found[name]) * size[name] for name in shapes)
    assert kept == pytest.approx((1 - sparsity) * sum(size.values()))
    # Where it is not dense, a layer's density is in proportion to the sum of its dimensions over their product.
    factors = [(1 - found[name]) * size[name] / sum(shapes[name]) for name in shapes if found[name]]
    assert max(factors) == pytest.approx(min(factors))
    assert all(factors[0] * sum(shapes[name]) / size[name] > 1 for name in shapes if not found[name])


def test_average_densities_follow_the_masks(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    for method in METHODS:
        chosen = program(steps=STEPS, pruning=pruning(method))
        result = train(chosen, 0, STEPS, prepared, tmp_path / method, None)
        run = Run(chosen, prepared, device_for("cpu"))
        seen = []
        loss = run._network.loss

        def spy(
            batch: dict[str, torch.Tensor], loss: object = loss, run: Run = run, seen: list[float] = seen
        ) -> object:
            seen.append(run.pruner.density())
            for name, kept in run.pruner.masks().items():
                assert not run._parameters.views[name][~kept].any(), "a pass sees a pruned weight"
            return loss(batch)  # type: ignore[operator]

        run._network.loss = spy  # type: ignore[method-assign, assignment]
        for _ in range(STEPS):
            run.advance()
        assert result.average_density == pytest.approx(sum(seen) / STEPS), method


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "magic"}, "use gmp, acdc, ste, sr-ste, rigl, set, static, oneshot, imp"),
        ({"pattern": "4:2"}, "use unstructured, n:m with n < m"),
        ({"distribution": "best"}, "use uniform, erk, global"),
        ({"pattern": "2:4"}, "pattern 2:4 has sparsity 0.5, not 0.75"),
        (
            {"pattern": "4:16"},
            r"heads·d_kv is 8, which groups of 16 do not divide "
            r"\(encoder.block.0.layer.0.SelfAttention.o sums over it\): set model.multiple_of: 16",
        ),
        ({"method": "acdc", "end": 16}, "whole number of sparse and dense phases"),
        ({"end": 17}, "never be reached"),
        ({"end": 24}, "the last update must come before step 24"),
        ({"start": 20}, "does not fit into 24 steps"),
        ({"method": "ste", "every": 20}, "no update falls into that: .* multiples of 20"),
        ({"method": "rigl", "every": 100}, "take a shorter period"),
        ({"method": "oneshot", "start": 24}, "first update must come before step 24"),
        ({"method": "rigl", "pattern": "1:4"}, "keeps no pattern 1:4"),
        ({"method": "set", "distribution": "global"}, "use distribution uniform or erk"),
        ({"pattern": "1:4", "distribution": "erk"}, "use distribution uniform"),
        ({"pattern": "block:0x4"}, "block:AxB"),
        ({"pattern": "block:1x1"}, "block:AxB"),
        (
            {"pattern": "block:4x6"},
            r"heads·d_kv is 8, which blocks of 4 × 6 do not tile: set .*multiple_of: 12",
        ),
        ({"pattern": "block:2x4", "method": "rigl"}, "keeps no pattern block:2x4"),
        ({"pattern": "block:2x4", "distribution": "global"}, "use distribution uniform or erk"),
        ({"pattern": "channel", "distribution": "erk"}, "use distribution uniform"),
        ({"pattern": "channel"}, r"0.75 of 2 heads is no whole number that leaves one: change model.heads"),
        ({"every": 0}, "at least 1"),
        ({"sparsity": 1.0}, r"must lie in \[0, 1\)"),
    ],
)
def test_what_could_not_hit_its_target_cannot_be_planned(
    changes: dict[str, object], said: str, program: Make
) -> None:
    base = {"sparsity": 0.75, "start": 6, "end": 18, "every": 2, **changes}
    with pytest.raises(ProgramError, match=said):
        program(steps=STEPS, pruning=Pruning(**base))  # type: ignore[arg-type]


def test_every_method_says_when_it_runs_by_default() -> None:
    for name in METHODS:
        start, end = method_for(name).window
        assert 0 <= start <= end < 1


def test_methods_differ(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    losses = {
        method: train(
            program(steps=STEPS, pruning=pruning(method)), 0, STEPS, prepared, tmp_path / method, None
        ).loss
        for method in METHODS
        if method != "sr-ste"  # 18 steps of a pull of 2e-4 move no mask
    }
    assert len(set(losses.values())) == len(losses)


def test_the_sparsity_metric_is_that_of_the_masks(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    recorder = Recorder()
    chosen = program(steps=STEPS, pruning=pruning("ste"))
    train_segment(
        chosen, 0, STEPS, data=prepared.path, parent=None, output=str(tmp_path), sink=recorder, log_every=1
    )
    sparsity = recorder.values("sparsity")
    assert sparsity[6] == 0
    assert 0 < sparsity[7] < 0.3
    assert sparsity[STEPS] == pytest.approx(0.75, abs=0.01)
    assert checkpoint.load(checkpoint.url_of(str(tmp_path), STEPS), chosen).masks == {}


def test_gmp_ranks_before_the_update_so_pruned_weights_do_not_return(
    program: Make, prepared: Prepared
) -> None:
    run = advanced(program(steps=STEPS, pruning=pruning("gmp")), prepared, 6)
    kept = torch.ones(8, 8, dtype=torch.bool)
    for step in range(6, STEPS):
        before = run._parameters.views[QUERY].abs()
        run.advance()
        if step % 2 == 0 and step <= 18:
            now = run.pruner.masks()[QUERY]
            assert torch.equal(now, _highest(before, int(now.sum())))
            assert not (now & ~kept).any()
            kept = now
    assert kept.sum() == 16


def test_pruned_weights_become_the_plain_zero_whatever_they_were(program: Make, prepared: Prepared) -> None:
    run = advanced(program(steps=STEPS, pruning=pruning("static")), prepared, 1)
    mask = run.pruner.masks()[QUERY]
    weight = run._parameters.views[QUERY]
    weight.copy_(torch.randn(8, 8))
    weight[~mask] = torch.tensor([float("nan"), -1.0, float("-inf"), 3e-45]).repeat(12)
    before = weight.clone()
    run.pruner.apply()
    assert torch.equal(weight[mask], before[mask])
    assert (weight[~mask].view(torch.int32) == 0).all(), "no NaN and no negative zero"
