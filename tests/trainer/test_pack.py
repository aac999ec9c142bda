"""A pack trains each of its members as that member would be trained alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from tests.trainer.conftest import Recorder
from trainer import checkpoint
from trainer.course import Order
from trainer.data import DataSource, Prepared, prepare
from trainer.devices import device_for
from trainer.errors import CheckpointError, Diverged, Stopped
from trainer.metrics import MetricSink, NoSink
from trainer.pack import Pack
from trainer.packing import changes_no_bit
from trainer.program import LearningRate, Numerics, Optimizer, Program, Pruning, Switch
from trainer.result import SegmentResult
from trainer.run import Run
from trainer.segment import Ending, train_pack, train_segment

Make = Callable[..., Program]

#: Losses of a packed run may differ from those of a lone one by so much, relatively.
STEP_TOLERANCE, END_TOLERANCE = 1e-5, 2e-3


def order(
    program: Program, prepared: Prepared, output: Path, sink: MetricSink | None = None, **options: object
) -> Order:
    given = {"start": 0, "end": program.steps, "parent": None, "log_every": 1, **options}
    return Order(program=program, data=prepared.path, output=str(output), sink=sink or NoSink(), **given)  # type: ignore[arg-type]


def alone(order: Order, output: Path) -> SegmentResult:
    fields = {field.name: getattr(order, field.name) for field in dataclasses.fields(order)}
    return train_segment(**{**fields, "output": str(output)})


def together(orders: list[Order]) -> dict[int, Ending]:
    return dict(train_pack(orders))


def result(ending: Ending) -> SegmentResult:
    assert isinstance(ending, SegmentResult), ending
    return ending


#: Each family, with an optimiser: every kind of both.
FAMILIES = {
    "t5": Optimizer(),
    "decoder": Optimizer(factored=True),
    "encoder": Optimizer(name="adamw", weight_decay=0.1, clip_norm=1.0),
    "vit": Optimizer(name="adafactor-vit", factored=True, weight_decay=0.03),
}


def siblings(program: Make, family: str, data: Prepared) -> list[Program]:
    """Seven programs of one shape that differ in all that members may differ in."""
    window = {"sparsity": 0.5, "start": 20, "end": 80, "every": 10}
    prunings: list[Pruning] = [
        Pruning(),
        Pruning(method="gmp", **window),
        Pruning(method="gmp", pattern="2:4", **window),
        Pruning(method="oneshot", sparsity=0.75, start=20, end=20, every=10),
        Pruning(method="static", sparsity=0.75),
        Pruning(method="ste", **window),
        Pruning(method="rigl", sparsity=0.5, start=0, end=80, every=10),
    ]
    optimizer = FAMILIES[family]
    pace = 1.0 if optimizer.name == "adafactor" else 0.02
    rates = [LearningRate(base=pace * base, warmup=10) for base in (0.3, 0.2)]
    return [
        dataclasses.replace(
            program(
                family=family,
                digest=data.digest,
                optimizer=optimizer,
                steps=104,
                pruning=pruning,
                seed=index // 3,
                learning_rate=rates[index % 2],
            ),
            batch_size=16,
        )
        for index, pruning in enumerate(prunings)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_the_cpu_batches_of_whole_vectors_give_the_same_bits(
    family: str, program: Make, prepared: Prepared, digits: Prepared
) -> None:
    """Batches of 16 rows: each member's activations begin on a boundary of 64 bytes, as a lone run's do."""
    data = digits if family == "vit" else prepared
    same_bits(siblings(program, family, data), data, steps=24)


def test_parts_of_a_batch_add_up_to_the_same_bits(program: Make, prepared: Prepared) -> None:
    numerics = Numerics(micro_batch=16)
    made = [
        dataclasses.replace(each, batch_size=32, numerics=numerics)
        for each in siblings(program, "t5", prepared)[:3]
    ]
    assert all(changes_no_bit(each) for each in made)
    same_bits(made, prepared, steps=4)
    assert not changes_no_bit(dataclasses.replace(made[0], numerics=Numerics(micro_batch=8)))


def test_members_may_be_on_either_side_of_a_switch_of_data(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    (source := tmp_path / "source").mkdir()
    for index in range(60):
        (source / f"{index}.txt").write_text(f"{index} the quick brown fox jumps over the lazy dog\n" * 20)
    then = prepare(DataSource(source=str(source), validation_share=0.3), tmp_path / "data")
    plain = siblings(program, "t5", prepared)[1]
    switch = Switch(at=3, data=dataclasses.replace(plain.data, digest=then.digest))
    made = [dataclasses.replace(plain, then=switch, seed=seed) for seed in (0, 0, 1)]

    def runs() -> list[Run]:
        found = [Run(each, prepared, device_for("cpu"), then=then) for each in made]
        found[1].advance()  # a step ahead of the others
        return found

    lone, pack = runs(), Pack(runs())
    for _ in range(5):
        assert [float(loss) for loss in pack.advance()] == [float(run.advance()) for run in lone]
        assert pack.evaluate() == [run.evaluate() for run in lone]


def same_bits(made: Sequence[Program], data: Prepared, *, steps: int) -> None:
    lone = [Run(each, data, device_for("cpu")) for each in made]
    pack = Pack([Run(each, data, device_for("cpu")) for each in made])
    for _ in range(steps):
        losses = [float(run.advance()) for run in lone]
        assert [float(loss) for loss in pack.advance()] == losses
    for one, other in zip(lone, pack.runs, strict=True):
        alone, packed = one.state(), other.state()
        for kind in ("weights", "moments", "masks"):
            before, after = getattr(alone, kind), getattr(packed, kind)
            assert before.keys() == after.keys()
            assert all((before[name] == after[name]).all() for name in before), kind
    assert pack.evaluate() == [run.evaluate() for run in lone]


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_runs_alone(
    family: str, program: Make, prepared: Prepared, digits: Prepared, tmp_path: Path
) -> None:
    """With batches of four rows, whose bits a pack does change."""
    data = digits if family == "vit" else prepared
    made = [dataclasses.replace(each, batch_size=4) for each in siblings(program, family, data)[:5]]
    packed, lone = [Recorder() for _ in made], [Recorder() for _ in made]
    ends = together([order(each, data, tmp_path / f"p{i}", packed[i]) for i, each in enumerate(made)])
    assert len(ends) == len(made)
    for index, each in enumerate(made):
        found = result(ends[index])
        expected = alone(order(each, data, tmp_path, lone[index]), tmp_path / f"a{index}")
        steps, reference = packed[index].values("loss"), lone[index].values("loss")
        assert list(steps) == list(range(1, 105))
        for step in range(1, 101):
            assert steps[step] == pytest.approx(reference[step], rel=STEP_TOLERANCE), (each.pruning, step)
        assert found.loss == pytest.approx(expected.loss, rel=END_TOLERANCE)
        assert (found.nonzero_params, found.per_layer) == (expected.nonzero_params, expected.per_layer)
        assert (found.members, expected.members) == (len(made), 1)


def test_states_of_packed_and_lone_runs_stand_for_each_other(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    """Trunk alone, branches packed, tips alone: at every cut the other kind goes on."""
    pruned = [program(steps=24, sparsity=sparsity) for sparsity in (0.5, 0.75)]
    trunk = alone(order(pruned[0], prepared, tmp_path, end=6), tmp_path / "trunk")
    orders = [
        order(each, prepared, tmp_path / f"b{i}", start=6, end=16, parent=trunk.checkpoint)
        for i, each in enumerate(pruned)
    ]
    branches = together(orders)
    for index, each in enumerate(pruned):
        branch = result(branches[index])
        tip = alone(
            order(each, prepared, tmp_path, start=16, parent=branch.checkpoint), tmp_path / f"t{index}"
        )
        whole = alone(order(each, prepared, tmp_path), tmp_path / f"w{index}")
        assert tip.loss == pytest.approx(whole.loss, rel=STEP_TOLERANCE)
        assert tip.per_layer == whole.per_layer


def test_members_may_stand_at_different_steps_and_the_others_go_on_when_one_ends(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    long, short = program(steps=24, sparsity=0.5), program(steps=12, sparsity=0.75)
    resumed = alone(order(long, prepared, tmp_path, end=10), tmp_path / "head")
    ends = list(
        train_pack(
            [
                order(long, prepared, tmp_path / "long"),
                order(short, prepared, tmp_path / "short", evaluate_every=5, checkpoint_every=5),
                order(long, prepared, tmp_path / "resumed", resume_from=resumed.checkpoint),
            ]
        )
    )
    assert [index for index, _ in ends] == [1, 2, 0]
    losses = {index: result(ending).loss for index, ending in ends}
    assert losses[0] == pytest.approx(losses[2], rel=STEP_TOLERANCE)
    assert losses[1] == pytest.approx(
        alone(order(short, prepared, tmp_path), tmp_path / "lone").loss, rel=STEP_TOLERANCE
    )


def test_a_member_that_fails_stops_or_diverges_leaves_and_the_others_finish(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    quiet, other = program(steps=24, sparsity=0.5), program(steps=24, sparsity=0.75)
    wild = program(steps=24, learning_rate=LearningRate(base=1e6, warmup=10))
    told = iter([False] * 8 + [True] * 100)
    orders = [
        order(quiet, prepared, tmp_path / "quiet"),
        order(wild, prepared, tmp_path / "wild"),
        order(other, prepared, tmp_path / "stopped", should_stop=lambda: next(told)),
        order(other, prepared, tmp_path / "torn", start=6, parent=str(tmp_path / "nowhere")),
    ]
    ends = together(orders)
    assert isinstance(ends[1], Diverged)
    assert isinstance(ends[3], CheckpointError)
    stopped = ends[2]
    assert isinstance(stopped, Stopped)
    assert stopped.step == 8
    assert checkpoint.load(stopped.checkpoint, other).step == 8
    expected = alone(order(quiet, prepared, tmp_path), tmp_path / "alone")
    assert result(ends[0]).loss == pytest.approx(expected.loss, rel=STEP_TOLERANCE)


def test_where_memory_does_not_hold_all_one_half_waits_for_the_other(
    program: Make, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, sizes = Pack.advance, []

    def in_little_memory(pack: Pack) -> Sequence[Tensor]:
        sizes.append(len(pack.runs))
        if len(pack.runs) > 2 and pack.runs[0].step >= 5:
            raise MemoryError
        return advance(pack)

    monkeypatch.setattr(Pack, "advance", in_little_memory)
    made = [program(steps=12, sparsity=sparsity) for sparsity in (0.0, 0.5, 0.75, 0.875)]
    ends = together([order(each, prepared, tmp_path / f"p{i}") for i, each in enumerate(made)])
    assert sizes == [4] * 6 + [2] * 7 + [2] * 7
    monkeypatch.undo()
    for index, each in enumerate(made):
        expected = alone(order(each, prepared, tmp_path), tmp_path / f"a{index}")
        assert result(ends[index]).loss == pytest.approx(expected.loss, rel=STEP_TOLERANCE)


def test_what_does_not_fit_together_is_refused(program: Make, prepared: Prepared, tmp_path: Path) -> None:
    one = program()
    other = dataclasses.replace(one, batch_size=2)
    with pytest.raises(ValueError, match="differ in batch_size"):
        together([order(each, prepared, tmp_path) for each in (one, other)])
    with pytest.raises(ValueError, match="differ in batch_size"):
        Pack([Run(each, prepared, device_for("cpu")) for each in (one, other)])
