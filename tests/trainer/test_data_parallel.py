"""Several processes that train one run: the bits of one process, differences found, ends that are everybody's.

The processes are real and speak through gloo.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.trainer.conftest import checksums
from tests.trainer.test_process import ended, job, started
from trainer import checkpoint, course, storage
from trainer.__main__ import JobError, read_job
from trainer.data import Prepared
from trainer.data.prepared import open_prepared
from trainer.devices import Device, device_for
from trainer.devices.cpu import Cpu
from trainer.launch import meeting_place
from trainer.metrics import NoSink
from trainer.program import LearningRate, Numerics, Optimizer, Program, ProgramError, Pruning
from trainer.ranks import ALONE, Ranks, check_share, joined
from trainer.run import Run
from trainer.segment import train_segment

Make = Callable[..., Program]

#: Seconds after which a process that should have answered is taken for hung.
PATIENCE = 240


def everywhere(what: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """`what(ranks, *arguments)` in so many processes that have joined; what each gave, by rank."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    found: dict[int, Any] = {}
    with meeting_place() as place:
        processes = [
            context.Process(
                target=_answer,
                args=(what, {**place, "WORLD_SIZE": str(count), "RANK": str(rank)}, answers, arguments),
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        try:
            while len(found) < count:
                found.update([answers.get(timeout=PATIENCE)])
        except Empty:
            pytest.fail(f"exit codes {[process.exitcode for process in processes]}; answers {found}")
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    return [found[rank] for rank in range(count)]


def _answer(
    what: Callable[..., Any], place: dict[str, str], answers: Any, arguments: tuple[Any, ...]
) -> None:
    os.environ.update(place)
    try:
        with joined() as ranks:
            found = what(ranks, *arguments)
    except Exception as error:
        found = repr(error)
    answers.put((int(place["RANK"]), found))


class Spreading(Cpu):
    """Stands for a device that lays batches over all chips by itself: each process has the whole of it."""

    spreads = True


def trained(
    ranks: Ranks, program: Program, data: Path, device: Device | None = None
) -> tuple[list[float], float, str]:
    """The losses of all steps, the validation loss, and the SHA-256 of the whole state."""
    run = Run(program, open_prepared(data), device or device_for("cpu"), ranks=ranks)
    losses = []
    for _ in range(program.steps):
        while run.retrace():
            pass
        losses.append(float(run.advance()))
    assert not run.pruner.missed()
    state, digest = run.state(), hashlib.sha256()
    for arrays in (state.weights, state.moments, state.masks):
        for name in sorted(arrays):
            digest.update(arrays[name].tobytes())
    return losses, run.evaluate(), digest.hexdigest()


def trained_on_its_gpu(ranks: Ranks, program: Program, data: Path) -> tuple[list[float], float, str]:
    """As `trained`, by each process on the GPU of its rank."""
    return trained(ranks, program, data, device_for(f"cuda:{ranks.rank}"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, since NCCL does")
def test_two_gpus_give_the_bits_of_one(program: Make, prepared: Prepared) -> None:
    chosen = program(steps=12, sparsity=0.5, numerics=Numerics(micro_batch=2))
    alone = trained_on_its_gpu(ALONE, chosen, prepared.path)
    assert everywhere(trained_on_its_gpu, 2, chosen, prepared.path) == [alone, alone]


def struck(ranks: Ranks, program: Program, data: Path, output: str, at: int) -> str:
    """What is raised where rank 1 loses one weight of its mask before step `at`; under a straight-through method, which
    keeps none, of every mask from there on."""

    class Struck(Run):
        def advance(self) -> Any:
            if ranks.rank == 1 and self.step == at:
                if program.pruning.method == "ste":
                    self.pruner._chosen = partial(wrong, self.pruner._chosen)  # type: ignore[method-assign]
                    return super().advance()
                name, kept = next(iter(self.pruner.masks().items()))
                kept.view(-1)[int(self.parameters.views[name].abs().argmax())] = False
                self.pruner.load({name: kept})
                self.pruner.apply()
            return super().advance()

    def wrong(right: Callable[..., Any], *arguments: Any) -> Any:
        masks = right(*arguments)
        name, kept = next(iter(masks.items()))
        return {**masks, name: kept.index_fill(0, torch.tensor([0]), False)}

    course.Run = Struck  # type: ignore[attr-defined]
    try:
        train_segment(
            *(program, 0, program.steps),
            data=data,
            parent=None,
            output=output,
            sink=NoSink(),
            checkpoint_every=5,
            ranks=ranks,
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def asked(
    ranks: Ranks, programs: list[Program], strikes: list[tuple[Program, int]], data: Path, output: str
) -> Any:
    """All that is asked of two processes: to start them takes longer than to answer."""
    bits = [trained(ranks, program, data) for program in programs]
    whole = trained(ranks, programs[0], data, Spreading())
    return bits, whole, [struck(ranks, program, data, f"{output}/{at}", at) for program, at in strikes]


def test_two_processes_have_the_bits_of_one_and_see_a_mask_that_changed_on_one(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    halves, quarters = Numerics(micro_batch=2), Numerics(micro_batch=1)
    programs = [
        program(16, 0.5, numerics=halves),
        program(
            12,
            numerics=quarters,
            optimizer=Optimizer(name="adamw", clip_norm=0.1),
            learning_rate=LearningRate(schedule="constant", base=1e-3, warmup=1),
            pruning=Pruning(method="rigl", sparsity=0.5, start=0, end=9, every=3),
        ),
        program(
            8, family="decoder", numerics=halves, pruning=Pruning(method="ste", sparsity=0.5, end=6, every=2)
        ),
        program(10, numerics=halves, pruning=Pruning(method="imp", sparsity=0.5, start=2, end=8, every=2)),
    ]
    # An odd number of held-out batches: the last turn is not everybody's.
    base = programs[0].to_dict()
    programs[0] = Program.from_dict({**base, "data": {**base["data"], "evaluation_batches": 3}})
    pruned = program(24, 0.5, numerics=halves)
    through = program(12, numerics=halves, pruning=Pruning(method="ste", sparsity=0.5, end=6, every=3))
    strikes = [(pruned, 7), (pruned, 21), (through, 8)]
    first, second = everywhere(asked, 2, programs, strikes, prepared.path, str(tmp_path))
    assert first == second
    bits, spread, raised = first
    assert spread == trained(ALONE, programs[0], prepared.path), "its chips share batches, not the processes"
    for one, found in zip(programs, bits, strict=True):
        assert found == trained(ALONE, one, prepared.path)

    whole = trained(ALONE, program(16, 0.5), prepared.path)
    np.testing.assert_allclose(bits[0][0], whole[0], rtol=1e-4)

    soon, late, straight = raised
    assert straight.startswith("RanksDiffer: after step 9 rank 1 differs from rank 0 in the mask of")
    assert soon.startswith(
        "RanksDiffer: after step 9 rank 1 differs from rank 0 in the mask of shared.weight"
    )
    assert late.startswith(
        "RanksDiffer: after step 24 rank 1 differs from rank 0 in the weight shared.weight"
    )
    assert storage.names(str(tmp_path / "7")) == ["step-5"], "nothing is written that they do not agree in"
    assert storage.names(str(tmp_path / "21")) == ["step-15", "step-20"]


def test_the_processes_of_a_job_end_together_and_one_alone_goes_on(
    program: Make, prepared: Prepared, tmp_path: Path
) -> None:
    # Longer than it can last: it is signalled, then killed, on its way.
    pruning = Pruning(sparsity=0.75, start=2, end=20, every=2)
    chosen = program(4000, pruning=pruning, numerics=Numerics(micro_batch=2))
    file = job(tmp_path, chosen, prepared, log_every=1, checkpoint_every=4, processes=2)

    def at_step(step: int, do: Callable[[Any], None]) -> tuple[int, list[dict[str, Any]], str]:
        process = started(file)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["step"] == step:
                do(process)
                break
        return ended(process)

    code, lines, err = at_step(6, lambda process: process.send_signal(signal.SIGTERM))
    assert code == 3, f"exit code {code}, standard error: {err}"
    step = lines[-1]["stopped"]["step"]
    assert 6 <= step < chosen.steps
    assert len(lines) == len({json.dumps(line) for line in lines}), "one of them speaks"

    def kill_one(process: Any) -> None:
        [one] = [
            child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"
        ]
        one.kill()

    code, lines, err = at_step(step + 8, kill_one)
    assert code == 1, f"exit code {code}, standard error: {err}"

    # What they left is gone on with by one process alone.
    arguments = {"data": prepared.path, "parent": None, "sink": NoSink()}
    output = str(tmp_path / "out")
    found = checkpoint.latest(output, chosen)
    assert found is not None
    assert step < found[1].step < chosen.steps
    end = found[1].step + 10
    rest = train_segment(chosen, 0, end, output=output, resume_from=output, **arguments)
    alone = train_segment(chosen, 0, end, output=str(tmp_path / "alone"), **arguments)
    assert rest.loss == alone.loss
    assert checksums(rest.checkpoint) == checksums(alone.checkpoint)


@pytest.mark.parametrize(("count", "part"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_every_row_of_a_batch_is_somebodys(count: int, part: int) -> None:
    rows = np.arange(24).reshape(12, 2)
    shares = [Ranks(rank, count).share({"rows": rows}, part)["rows"] for rank in range(count)]
    # In the order of the parts: the first of each process, then the second of each.
    parts = [share[begin : begin + part] for begin in range(0, 12 // count, part) for share in shares]
    assert np.array_equal(np.concatenate(parts), rows)


@pytest.mark.parametrize(
    ("count", "numerics", "said"),
    [
        (0, Numerics(), "0 processes train nothing"),
        (3, Numerics(micro_batch=1), "3 processes cannot share batches of 4: use a divisor"),
        (2, Numerics(), "cut into 1 parts: set micro_batch to 2 or a divisor of it"),
        (4, Numerics(micro_batch=2), "cut into 2 parts: set micro_batch to 1 or"),
        (2, Numerics(micro_batch=2, device_type="xla"), "on xla one process drives all chips"),
    ],
)
def test_what_cannot_be_shared_is_refused(count: int, numerics: Numerics, said: str, program: Make) -> None:
    with pytest.raises(ProgramError, match=said):
        check_share(program(4, numerics=numerics), count)
    check_share(program(4, numerics=numerics), 1)


def test_a_job_for_another_number_of_processes_is_refused(
    program: Make, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = job(tmp_path, program(4, numerics=Numerics(micro_batch=1)), prepared, processes=2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(JobError, match="has processes: 2, and WORLD_SIZE is 4: make them the same"):
        read_job(file)
