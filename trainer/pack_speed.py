"""Measure what a pack's step costs on this machine: a few steps of each size, in turns, on the program's own data."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from trainer.data.prepared import Prepared
from trainer.devices import Device
from trainer.errors import is_out_of_memory
from trainer.pack import Pack
from trainer.packing import Speed
from trainer.program import Program, Pruning
from trainer.run import Run


def measure(
    program: Program, prepared: Prepared, device: Device, sizes: Sequence[int], *, rounds: int = 3
) -> list[Speed]:
    """The speed of packs of `sizes`, ascending, of dense models like `program`; where memory ends, so does the list.

    Each size is timed once a round, after a step that is not; the fastest counts. On the CPU the processor's time is
    taken, so that what else the machine does changes little.
    """
    dense = replace(program, pruning=Pruning(), then=None)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    steps: dict[int, Callable[[], object]] = {}
    fastest: dict[int, float] = {}
    memory: dict[int, int] = {}
    for size in sizes:
        try:
            runs = [Run(dense, prepared, device) for _ in range(size)]
            # One alone is timed as it is trained alone, which is not as a pack of one.
            steps[size] = runs[0].advance if size == 1 else Pack(runs).advance
            steps[size]()
            device.wait()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            steps.pop(size, None)
            break
        memory[size] = device.peak_memory()
    for _ in range(rounds):
        for size, step in steps.items():
            begin = clock()
            step()
            device.wait()
            fastest[size] = min(fastest.get(size, float("inf")), clock() - begin)
    return [Speed(size, fastest[size], memory[size]) for size in steps]


def device_name(device: Device) -> str:
    """What kind of processor it is, as its maker calls it: measured speeds hold for all of a kind."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def free_memory(device: Device) -> int:
    """Bytes that could be allocated now: of the device, or of the machine where it has none of its own."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
