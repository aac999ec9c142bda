"""Where memory does not hold a pass, less is computed at a time, from the state as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor

from tests.trainer.test_pack import END_TOLERANCE, STEP_TOLERANCE, Make, alone, order, result, together
from trainer import run
from trainer.data import Prepared
from trainer.devices import Device
from trainer.models import Loss, Network
from trainer.optim.adafactor import AdaFactor
from trainer.pack import Pack
from trainer.program import Program, Pruning


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call with a number of examples: a pass over more of them runs out of memory from now on."""
    forward_of = run.forward_of

    def hold(most: int) -> None:
        def little(
            network: Network, program: Program, device: Device
        ) -> Callable[[Mapping[str, Tensor]], Loss]:
            forward = forward_of(network, program, device)

            def loss(batch: Mapping[str, Tensor]) -> Loss:
                if len(next(iter(batch.values()))) > most:
                    raise MemoryError
                return forward(batch)

            return loss

        monkeypatch.setattr(run, "forward_of", little)

    return hold


def test_a_run_alone_goes_on_over_fewer_examples_at_a_time(
    program: Make, prepared: Prepared, tmp_path: Path, holding: Callable[[int], None]
) -> None:
    whole = dataclasses.replace(program(steps=12, sparsity=0.5), batch_size=12)
    expected = alone(order(whole, prepared, tmp_path), tmp_path / "whole")
    assert expected.micro_batch == 12
    holding(4)
    found = alone(order(whole, prepared, tmp_path), tmp_path / "parts")
    # 12, then 6, then 3.
    assert found.micro_batch == 3
    assert found.loss == pytest.approx(expected.loss, rel=END_TOLERANCE)
    # All but the evaluation is what the program that asks for it computes, to the bit.
    small = dataclasses.replace(whole, numerics=dataclasses.replace(whole.numerics, micro_batch=3))
    holding(12)
    asked = alone(order(small, prepared, tmp_path), tmp_path / "asked")
    assert found.loss == pytest.approx(asked.loss, rel=1e-6)
    assert found.per_layer == asked.per_layer


def test_members_of_a_pack_are_split_and_shrunk_where_only_the_evaluation_is_too_large(
    program: Make,
    prepared: Prepared,
    tmp_path: Path,
    holding: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [program(steps=6, sparsity=sparsity) for sparsity in (0.0, 0.5)]
    expected = [alone(order(each, prepared, tmp_path), tmp_path / f"a{i}") for i, each in enumerate(made)]

    def too_large(pack: Pack) -> list[float]:
        raise MemoryError

    monkeypatch.setattr(Pack, "evaluate", too_large)
    holding(1)
    ends = together([order(each, prepared, tmp_path / f"p{i}") for i, each in enumerate(made)])
    for index, one in enumerate(expected):
        assert result(ends[index]).loss == pytest.approx(one.loss, rel=STEP_TOLERANCE)
        assert result(ends[index]).members == 2


def test_steps_that_a_branch_does_once_more_are_over_fewer_examples_too(
    program: Make, prepared: Prepared, tmp_path: Path, holding: Callable[[int], None]
) -> None:
    rounds = program(steps=12, pruning=Pruning(method="imp", sparsity=0.5, start=3, end=9, every=3))
    whole = alone(order(rounds, prepared, tmp_path), tmp_path / "whole")
    trunk = alone(order(program(steps=6), prepared, tmp_path), tmp_path / "trunk")
    holding(2)
    found = alone(order(rounds, prepared, tmp_path, start=6, parent=trunk.checkpoint), tmp_path / "branch")
    assert found.micro_batch == 2
    assert found.loss == pytest.approx(whole.loss, rel=END_TOLERANCE)


def test_what_does_not_fit_at_all_says_so_and_half_an_update_is_not_gone_on_from(
    program: Make,
    prepared: Prepared,
    tmp_path: Path,
    holding: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = program(steps=6)
    holding(0)
    assert isinstance(together([order(made, prepared, tmp_path)])[0], MemoryError)
    holding(made.batch_size)
    calls = []

    def no_room(*_: object) -> dict[str, float]:
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(AdaFactor, "numbers", no_room)
    for orders in ([made], [made, dataclasses.replace(made, seed=7)]):
        calls.clear()
        ends = together([order(each, prepared, tmp_path / str(i)) for i, each in enumerate(orders)])
        assert {type(ending) for ending in ends.values()} == {MemoryError}
        assert len(calls) == 1
