from __future__ import annotations

from orchestrator.tracking.machine import Machine
from orchestrator.tracking.spool import Spool


def test_a_batch_has_whole_steps_only() -> None:
    spool = Spool()
    spool.point(1, "loss", 3.0)
    spool.point(1, "sparsity", 0.0)
    assert spool.batch() == []
    spool.point(2, "loss", 2.5)
    assert spool.batch() == [(1, "loss", 3.0), (1, "sparsity", 0.0)]
    assert spool.batch(up_to=2)[-1] == (2, "loss", 2.5)


def test_what_was_not_taken_comes_again() -> None:
    spool = Spool()
    for step in (1, 2, 3):
        spool.point(step, "loss", float(step))
    assert spool.batch() == spool.batch()
    spool.taken(spool.batch())
    assert spool.batch(up_to=3) == [(3, "loss", 3.0)]


def test_it_knows_how_far_training_is() -> None:
    spool = Spool()
    spool.point(5, "loss", 3.0)
    spool.point(6, "learning_rate", 0.1)
    assert (spool.step, spool.loss) == (6, 3.0)


def test_what_the_machine_says_goes_out_with_the_step_that_it_was_asked_at() -> None:
    now = [0.0]
    machine = Machine(clock=lambda: now[0])
    spool = Spool(machine.sample)
    spool.point(1, "loss", 3.0)
    now[0] = 11.0
    spool.point(2, "loss", 2.0)
    spool.point(2, "learning_rate", 0.1)
    spool.point(3, "loss", 1.0)
    names = [(step, name) for step, name, _ in spool.batch(up_to=3)]
    assert names == [
        (1, "loss"),
        (2, "loss"),
        (2, "system/cpu_utilization_percentage"),
        (2, "system/process_memory_megabytes"),
        (2, "learning_rate"),
        (3, "loss"),
    ]
