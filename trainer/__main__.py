"""Train one segment as a process of its own: `python -m trainer JOB.json`.

The job is one JSON mapping: `program` (as `Program.to_dict` writes it), `data` and `output`; and, where they are not
the whole run on the CPU from its beginning, `start`, `end`, `parent`, `device`, `checkpoint_every`, `evaluate_every`
and `log_every`, each as `trainer.segment.train_segment` has it. Where `output` holds a state of this segment, training
goes on from there.

`processes` in the job, where it is not 1, says how many train the segment together, each on its part of every batch
and, with device `cuda`, on a GPU of its own. They are started here; under torchrun, or whatever else sets RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, this is one of them.

Standard output has one JSON document a line: {"step", "name", "value"} for every metric point, and at last
{"result": …}, {"stopped": {"step", "checkpoint"}} or {"diverged": {"step", "loss"}}. Errors go to standard error.

Exit codes: 0 done; 1 failed; 2 the job is wrong; 3 stopped by SIGTERM or SIGINT, the state was written; 4 diverged, and
would again. A signal is obeyed when the step that it meets is done; a second one ends the process at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.launch import launch
from trainer.program import Program, ProgramError
from trainer.ranks import ALONE, Ranks, assigned, check_share, device_of, joined

DONE, FAILED, WRONG, STOPPED, DIVERGED = range(5)

#: Key of a job → the kinds that its value may have.
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "start": (int,),
    "end": (int,),
    "parent": (str, type(None)),
    "device": (str,),
    "checkpoint_every": (int,),
    "evaluate_every": (int,),
    "log_every": (int,),
    "processes": (int,),
}
_NEEDED: dict[str, tuple[type, ...]] = {"program": (dict,), "data": (str,), "output": (str,)}


class JobError(ValueError):
    """A job that cannot be read, or that asks for what does not exist."""


class Lines:
    """A metric sink that writes one JSON document a line, each at once."""

    def point(self, step: int, name: str, value: float) -> None:
        write({"step": step, "name": name, "value": value})


def write(document: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _silent(document: dict[str, Any]) -> None:
    """Rank 0 has said it."""


def read_job(path: Path) -> dict[str, Any]:
    """The job in a file, its `program` made one. Raises JobError with all that is wrong."""
    try:
        job = json.loads(path.read_bytes())
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise JobError(f"{path} is no valid JSON: {error}") from None
    if not isinstance(job, dict):
        raise JobError(f"{path} holds no mapping")
    kinds = {**_NEEDED, **_OPTIONAL}
    found = [f"lacks {name}" for name in _NEEDED if name not in job]
    found += [f"has the unknown key {name!r}: use {', '.join(kinds)}" for name in job if name not in kinds]
    for name, value in job.items():
        if name in kinds and (not isinstance(value, kinds[name]) or isinstance(value, bool)):
            found.append(f"has {name}: {value!r}, which is no {kinds[name][0].__name__}")
    if found:
        raise JobError(f"{path} {'; '.join(found)}")
    processes = job.setdefault("processes", 1)
    try:
        program = Program.from_dict(job["program"])
        check_share(program, processes)
    except (ProgramError, TypeError, KeyError) as error:
        raise JobError(f"{path} has a program that cannot be carried out: {error}") from None
    if (place := assigned()) is not None and place[1] != processes:
        raise JobError(f"{path} has processes: {processes}, and WORLD_SIZE is {place[1]}: make them the same")
    return {**job, "program": program}


def main(arguments: list[str]) -> int:
    """Carry out the job in the file that is named. The exit code."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m trainer JOB.json\n")
        return WRONG
    try:
        job = read_job(Path(arguments[0]))
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    processes = job.pop("processes")
    if processes == 1:
        return train(job, ALONE, stop)
    if assigned() is None:
        return launch(Path(arguments[0]), processes)
    try:
        with joined() as ranks:
            return train({**job, "device": device_of(job.get("device", "cpu"))}, ranks, stop, os.getppid())
    except Exception:
        traceback.print_exc()
        return FAILED


def train(job: dict[str, Any], ranks: Ranks, stop: threading.Event, parent: int | None = None) -> int:
    """Train a job's segment, as one of the processes that do. The exit code.

    parent: the process whose end is taken for a signal, since another may be started in its place.
    """
    # torch takes seconds to import: a wrong job is told before.
    from trainer.errors import Diverged, Stopped
    from trainer.segment import train_segment

    program, output = job.pop("program"), job.pop("output")
    start, end = job.pop("start", 0), job.pop("end", program.steps)
    tell = write if ranks.speaks else _silent
    try:
        result = train_segment(
            program,
            start,
            end,
            data=Path(job.pop("data")),
            parent=job.pop("parent", None),
            output=output,
            resume_from=output,
            sink=Lines(),
            should_stop=lambda: stop.is_set() or parent not in (None, os.getppid()),
            ranks=ranks,
            **job,
        )
    except Stopped as stopped:
        tell({"stopped": {"step": stopped.step, "checkpoint": stopped.checkpoint}})
        return STOPPED
    except Diverged as diverged:
        tell({"diverged": {"step": diverged.step, "loss": repr(diverged.loss)}})
        return DIVERGED
    except ProgramError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    except Exception:
        traceback.print_exc()
        return FAILED
    tell({"result": result.to_dict()})
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
