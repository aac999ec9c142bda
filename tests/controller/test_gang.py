"""Sweeps whose runs are trained by several processes each: real ones, by Ray, over gloo."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import sweeps
from ledger.models import AttemptEnd
from ledger.settings import Settings
from orchestrator import controller
from orchestrator.controller.failures import kind_of, reason_of
from orchestrator.controller.gang import Failure, Seat, cause, environments
from orchestrator.submit import submit_text
from tests.controller import tiny
from tests.controller.nodes import cluster
from tests.controller.processes import ControllerProcess
from tests.controller.quiet import quiet_losses
from tests.controller.watching import completed_twice, losses, rows, scene, until
from trainer.errors import CheckpointError, RankGone
from trainer.metrics import NoSink
from trainer.program import Program
from trainer.segment import train_segment


@pytest.mark.chaos
@pytest.mark.usefixtures("ray")
def test_two_processes_train_each_run_to_the_bits_of_one_although_one_is_killed_and_all_are_paused(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    tracked = Settings(
        home=settings.home,
        database_url=settings.database_url,
        tracking_uri=f"sqlite:///{settings.home}/mlflow.db",
    )
    text = tiny.spec_text(settings.home, sparsity="[0.5]", steps="[240]", checkpoint_every=10, attempts=1)
    text = text.replace("batch_size: 4", "batch_size: 4\n  micro_batch: 2")
    submit_text(tracked, engine, text.replace("execution: {", "execution: {devices_per_run: 2, "))

    def saw() -> str:
        return scene(engine, settings.home)

    def kill_one_and_pause_the_next() -> None:
        until(lambda: rows(engine, "SELECT 1 FROM segments WHERE progress_step >= 80"), saw=saw)
        members().pop().kill()
        running = "SELECT 1 FROM attempts WHERE state = 'running'"
        try:
            until(lambda: rows(engine, running + " AND started_step >= 80"), saw=saw)
            with Session(engine) as session, session.begin():
                sweeps.pause(session, "tiny")
            until(lambda: not rows(engine, running), saw=saw)
        finally:  # else the controller would wait for ever
            with Session(engine) as session, session.begin():
                sweeps.resume(session, "tiny")

    disturbing = threading.Thread(target=kill_one_and_pause_the_next)
    disturbing.start()
    assert controller.run(tracked, ["tiny"], max_concurrent=1).ok, saw()
    disturbing.join()
    assert completed_twice(engine) == []
    # It cost no attempt of the one that there was, and nothing that had been written was done again.
    lost, paused, resumed = rows(
        engine,
        "SELECT state, kind, started_step, step FROM attempts WHERE segment_key = (SELECT segment_key FROM attempts "
        "WHERE state = 'lost') ORDER BY id",
    )
    assert (lost.kind, lost.started_step < 80 <= paused.started_step) == ("preempted", True), saw()
    assert (paused.state, resumed.state, resumed.started_step) == ("stopped", "completed", paused.step), saw()

    # The same programs in one process of the same parts, without a gang: their keys are the same, and their losses.
    [(program, data)] = rows(
        engine, "SELECT program, data_path FROM segments WHERE end_step = 240 AND state = 'completed'"
    )
    alone = Program.from_dict(program)
    assert alone.numerics.micro_batch == 2
    assert alone.numerics.device_type == "cpu"
    result = train_segment(
        *(alone, 0, 240), data=Path(data), parent=None, output=str(tmp_path / "alone"), sink=NoSink()
    )
    assert losses(engine) == dict.fromkeys(losses(engine), result.loss)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_gang_over_two_nodes_is_paused_and_resumed_to_the_bits_of_one_process(
    settings: Settings, engine: Engine
) -> None:
    pools = settings.home / "pools.yaml"
    # A node has a core, so that the two processes of a run find room on two of them only.
    pools.write_text("pools:\n  - {name: spread, accelerator: cpu, cpus: 1, maxNodes: 2}\n")
    there = Settings(home=settings.home, database_url=settings.database_url, pools=pools)
    text = tiny.spec_text(settings.home, sparsity="[0.5]", steps="[400]", checkpoint_every=10, attempts=1)
    text = text.replace("batch_size: 4", "batch_size: 4\n  micro_batch: 2")
    submit_text(there, engine, text.replace("execution: {", "execution: {pool: spread, devices_per_run: 2, "))
    with cluster() as nodes:
        for name in ("one", "other"):
            nodes.add(name, cores=1, resources={"pool:spread": 1})
        environment = {
            **nodes.environment,
            "RAY_ADDRESS": nodes.address,
            "LACUNA_POOLS": str(pools),
        }
        controller = ControllerProcess(there, environment=environment)

        def saw() -> str:
            return "\n".join([scene(engine, settings.home), controller.tells(), nodes.tells()])

        try:
            until(lambda: rows(engine, "SELECT 1 FROM segments WHERE progress_step >= 120"), saw=saw)
            [worker] = rows(engine, "SELECT worker FROM attempts WHERE state = 'running'")
            training = [int(worker.worker.split(":")[1].split("/")[0])]
            for pid in nodes.pids().values():
                training += [member.pid for member in members(pid)]
            placed = [nodes.node_of(process) for process in training]
            assert sorted(map(str, placed)) == ["one", "other"], saw()
            with Session(engine) as session, session.begin():
                sweeps.pause(session, "tiny")
            until(lambda: not rows(engine, "SELECT 1 FROM attempts WHERE state = 'running'"), saw=saw)
            [stopped] = rows(engine, "SELECT step FROM attempts WHERE state = 'stopped'")
            assert 120 <= stopped.step < 400
            assert rows(engine, "SELECT 1 FROM runs WHERE loss IS NOT NULL") == []
            with Session(engine) as session, session.begin():
                sweeps.resume(session, "tiny")
            assert controller.says() == "ok", saw()
        finally:
            controller.kill()
    assert completed_twice(engine) == []
    [resumed] = rows(
        engine, "SELECT started_step FROM attempts WHERE state = 'completed' AND started_step >= 120"
    )
    assert resumed.started_step == stopped.step, "nothing is done again"
    assert losses(engine) == quiet_losses(there)


def members(above: int | None = None) -> list[psutil.Process]:
    """The processes of gangs that are not rank 0, and train, below this process or another one."""
    found = []
    for process in psutil.Process(above).children(recursive=True):
        try:
            if "Member.train" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_what_another_process_raised_is_the_reason_and_a_death_is_none() -> None:
    gone, dead = RankGone("nobody answers"), Failure(AttemptEnd.preempted, "killed")
    raised = Failure(AttemptEnd.memory, "OutOfMemoryError: too large (on b)")
    assert cause(gone, [dead]) is None
    found = cause(gone, [dead, raised])
    assert found is not None
    assert (kind_of(found), reason_of(found, [])) == (raised.kind, raised.reason)
    torn = CheckpointError("torn")
    assert cause(torn, [dead, raised]) is torn, "this process fails by itself, and the others by it"


def test_processes_of_one_node_see_the_gpus_of_each_other() -> None:
    seats = [Seat("a", ("2",)), Seat("b", ("0",)), Seat("a", ("5",)), Seat("c", ())]
    first, second, third, fourth = environments(seats, {"MASTER_ADDR": "10.0.0.1"})
    assert first == {
        "MASTER_ADDR": "10.0.0.1",
        "RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "2,5",
    }
    assert (second["LOCAL_RANK"], second["CUDA_VISIBLE_DEVICES"]) == ("0", "0")
    assert (third["RANK"], third["LOCAL_RANK"], third["CUDA_VISIBLE_DEVICES"]) == ("2", "1", "2,5")
    assert (fourth["RANK"], fourth["LOCAL_RANK"], "CUDA_VISIBLE_DEVICES" in fourth) == ("3", "0", False)
