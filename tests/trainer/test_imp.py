"""Iterative magnitude pruning: rounds that go back, what they repeat, and what they share with a dense run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator.plan.forest import forest
from tests.trainer.conftest import Recorder, checksums, shared_prefix
from trainer import checkpoint
from trainer.data import Prepared
from trainer.devices import device_for
from trainer.errors import Stopped
from trainer.metrics import NoSink
from trainer.program import LearningRate, Optimizer, Program, ProgramError, Pruning
from trainer.pruning.mask import keep_count
from trainer.pruning.rounds import clock, in_rounds
from trainer.result import SegmentResult
from trainer.run import Run
from trainer.segment import train_segment

Make = Callable[..., Program]

#: Dense to 9, and three rounds of 5 steps that go back to step 4 before steps 9, 14 and 19.
ROUNDS = Pruning(method="imp", sparsity=0.75, start=4, end=19, every=5)
STEPS = 24
QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"


def train(
    program: Program, start: int, end: int, prepared: Prepared, output: Path, **options: object
) -> SegmentResult:
    arguments = {"parent": None, "sink": NoSink(), **options}
    return train_segment(program, start, end, data=prepared.path, output=str(output), **arguments)  # type: ignore[arg-type]


def at(program: Program, prepared: Prepared, step: int) -> Run:
    run = Run(program, prepared, device_for("cpu"))
    while run.step < step:
        run.advance()
    return run


def test_steps_across_rounds() -> None:
    assert [clock(ROUNDS, step) for step in range(STEPS)] == [
        *range(9),
        *(4, 5, 6, 7, 8),
        *(4, 5, 6, 7, 8),
        *(4, 5, 6, 7, 8),
    ]
    assert in_rounds(4, 3, 24) == (4, 19, 5)
    assert in_rounds(50, 3, 1001) == (53, 764, 237)  # what is left over moves the rewind point
    assert in_rounds(0, 1, 10) == (0, 5, 5)


def test_a_round_begins_with_the_old_weights_under_the_new_mask(program: Make, prepared: Prepared) -> None:
    chosen = program(steps=STEPS, pruning=ROUNDS)
    early = at(chosen, prepared, 4).state()
    for begin, kept in ((9, 0.25 ** (1 / 3)), (14, 0.25 ** (2 / 3)), (19, 0.25)):
        run = at(chosen, prepared, begin)
        trained = run._parameters.views[QUERY].abs().flatten()
        run._begin_step()
        mask = run.pruner.masks()[QUERY]
        order = sorted(range(64), key=lambda index, w=trained: (-float(w[index]), index))
        assert set(torch.nonzero(mask.flatten())[:, 0].tolist()) == set(order[: keep_count(64, 1 - kept)])
        old = torch.from_numpy(early.weights[QUERY])
        assert torch.equal(run._parameters.views[QUERY], torch.where(mask, old, 0.0))
        assert torch.equal(
            run.group.optimizer.state(0)["v"][QUERY], torch.from_numpy(early.moments[f"v/{QUERY}"])
        )


def test_a_round_reads_the_batches_and_rates_of_the_first(program: Make, prepared: Prepared) -> None:
    chosen = program(
        steps=STEPS, pruning=ROUNDS, learning_rate=LearningRate(schedule="cosine", base=0.03, warmup=2)
    )
    run = Run(chosen, prepared, device_for("cpu"))
    seen, rates = [], []
    run._batch = lambda index: (seen.append(index), run.device.place(run.batches.train(index)))[1]  # type: ignore[assignment]
    for _ in range(STEPS):
        rates.append(run.learning_rate())
        run.advance()
    assert seen == [clock(ROUNDS, step) for step in range(STEPS)]
    assert rates == [rates[clock(ROUNDS, step)] for step in range(STEPS)]
    assert rates[8] < rates[4] / 5, "the schedule's horizon is the end of a round"


@pytest.mark.parametrize("schedule", ["rsqrt", "cosine"])
def test_the_first_round_is_a_dense_run_of_that_length(schedule: str, program: Make) -> None:
    rate = LearningRate(schedule=schedule, base=0.03, warmup=2, cooldown=2 if schedule == "rsqrt" else 0)
    chosen = program(steps=STEPS, pruning=ROUNDS, learning_rate=rate)
    dense = program(steps=9, learning_rate=rate)
    assert shared_prefix(chosen, dense) == 9
    assert chosen.key_at(9) == dense.key_at(9)
    sparser = replace(chosen, pruning=replace(ROUNDS, sparsity=0.5))
    assert shared_prefix(chosen, sparser) == 9
    assert chosen.key_at(10) != sparser.key_at(10)
    grown = forest([(dense, 1.0), (chosen, 1.0), (sparser, 1.0)])
    assert sum(segment.flops for segment in grown.segments) == 9 + 2 * 15


def test_a_branch_from_the_dense_run_retraces_the_rewind_point(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    chosen = program(steps=STEPS, pruning=ROUNDS)
    alone = train(chosen, 0, STEPS, prepared, tmp_path / "alone")
    trunk = train(program(steps=9), 0, 9, prepared, tmp_path / "trunk")
    assert checkpoint.load(trunk.checkpoint, chosen, 9).step == 9

    asked = iter(range(100))  # the third question comes in the middle of retracing four steps
    with pytest.raises(Stopped) as stopped:
        train(
            chosen,
            9,
            STEPS,
            prepared,
            tmp_path / "branch",
            parent=trunk.checkpoint,
            should_stop=lambda: next(asked) == 2,
        )
    assert stopped.value.step == 9
    recorder = Recorder()
    first = train(
        chosen,
        9,
        16,
        prepared,
        tmp_path / "branch",
        parent=trunk.checkpoint,
        resume_from=stopped.value.checkpoint,
        sink=recorder,
        log_every=1,
    )
    assert sorted(recorder.values("loss")) == list(range(10, 17)), "retraced steps are nobody's metrics"
    assert any(name.startswith("rewind/") for name in checkpoint.load(first.checkpoint, chosen).moments)
    last = train(chosen, 16, STEPS, prepared, tmp_path / "branch", parent=first.checkpoint)
    assert last.loss == alone.loss
    assert checksums(last.checkpoint) == checksums(alone.checkpoint)
    assert not any(name.startswith("rewind/") for name in checkpoint.load(last.checkpoint, chosen).moments)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"end": 18}, "end − start must be a multiple of the round's length"),
        ({"end": 14}, "the last round of imp would end at step 19, not at the run's end, 24"),
        ({"every": 0}, "a round of imp has no step"),
        ({"start": 19}, "no whole number of rounds"),
        ({"pattern": "1:4", "sparsity": 0.5}, "has sparsity 0.75, not 0.5"),
    ],
)
def test_rounds_that_do_not_fit_cannot_be_planned(
    changes: dict[str, object], said: str, program: Make
) -> None:
    with pytest.raises(ProgramError, match=said):
        program(steps=STEPS, pruning=replace(ROUNDS, **changes))  # type: ignore[arg-type]


def test_a_cooldown_must_fit_into_a_round(program: Make) -> None:
    with pytest.raises(ProgramError, match="a cooldown of 9 steps does not fit into 9"):
        program(steps=STEPS, pruning=ROUNDS, learning_rate=LearningRate(cooldown=9))


def test_rounds_with_adamw_go_back_to_its_moments_too(program: Make, prepared: Prepared) -> None:
    chosen = program(
        steps=STEPS,
        pruning=ROUNDS,
        optimizer=Optimizer(name="adamw"),
        learning_rate=LearningRate(schedule="constant", base=1e-3, warmup=2),
    )
    early = at(chosen, prepared, 4).state().moments
    run = at(chosen, prepared, 9)
    run._begin_step()
    now = run.state().moments
    assert all((now[name] == early[name]).all() for name in early)
    assert any(name.startswith("m/") for name in early)
