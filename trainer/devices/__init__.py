"""Devices behind one small interface; a backend is one file and one line in BACKENDS.

What a step needs from the host (step number, learning rate, keep counts) enters as tensors, so that a compiled step
is compiled once. Nothing outside this package calls XLA or CUDA.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray
from torch import Tensor, nn

#: Device type → module in this package.
BACKENDS = ("cpu", "cuda", "xla")

Arrays = Mapping[str, NDArray[Any]]

#: Batch index → the batch's tensors on the device. Indices are best asked for in order.
Feed = Callable[[int], dict[str, Tensor]]

Function = TypeVar("Function", bound=Callable[..., Any])


class DeviceError(ValueError):
    """A device that is unknown, or that this machine does not have."""


class Device(Protocol):
    """All that training asks of a device."""

    type: str
    bf16: bool
    """Whether products in bf16 are done in hardware: elsewhere they work, and are slow."""
    spreads: bool
    """Whether it lays the rows of a batch over all chips itself, those of other hosts too: every process that trains a
    run with it then hands it whole batches and gets whole gradients."""
    read_every: int
    """Steps between two readings of losses: reading waits for the device. 1: reading is free."""

    def prepare(self) -> None:
        """Set the process up: threads, determinism."""
        ...

    def move(self, module: nn.Module) -> None:
        """Bring a module's parameters and buffers onto the device; tied parameters stay tied."""
        ...

    def place(self, arrays: Arrays) -> dict[str, Tensor]:
        """Batch arrays as tensors on the device."""
        ...

    def feed(self, make: Callable[[int], Arrays], until: int) -> Feed:
        """`make(index)` on the device, prepared ahead of its use where that pays; never beyond `until`."""
        ...

    def numbers(self, values: Sequence[float]) -> Tensor:
        """Numbers that change from step to step, as one float32 tensor [len(values)]: data to a compiled step."""
        ...

    def compile(self, function: Function) -> Function:
        """A pure function of tensors of fixed shapes, compiled where that pays."""
        ...

    def end_part(self) -> None:
        """What was issued since the last call is a program of its own, where operations are recorded before they run.

        Costs next to nothing where nothing was issued, and elsewhere nothing at all.
        """
        ...

    def fetch(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        """Copies on the host, in as few transfers as possible."""
        ...

    def wait(self) -> None:
        """Return when all work that was handed out is done: for clocks, never for arithmetic."""
        ...

    def peak_memory(self) -> int:
        """Most bytes in use so far: of the device's memory, or of the process where it has none of its own."""
        ...


def device_for(name: str) -> Device:
    """The device of a name such as `cpu` or `cuda:1`. Raises DeviceError on one that is unknown or not there."""
    kind = name.partition(":")[0]
    if kind not in BACKENDS:
        raise DeviceError(f"device {name!r} is unknown: use {', '.join(BACKENDS)}")
    made: Device = importlib.import_module(f"trainer.devices.{kind}").make(name)
    return made
