"""XLA through torch-xla 2.9: TPUs, and the same programs on a CPU with PJRT_DEVICE=CPU.

Operations are recorded and run when a step ends, as one program that is compiled once for its shapes. What would make
another program of a step must not enter it as a Python number: see `numbers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.devices import Arrays, DeviceError, Feed, Function
from trainer.devices.ahead import Ahead
from trainer.devices.joined import fetch_joined
from trainer.pruning.bisection import keep_highest_by_bisection
from trainer.pruning.mask import CORES


def make(name: str) -> Xla:
    """The XLA device. Raises DeviceError where torch-xla is not installed or finds no device."""
    try:
        import torch_xla
    except ImportError as reason:
        raise DeviceError(
            f"device {name!r} needs torch-xla, which has its own torch: install Lacuna with the extra [tpu] ({reason})"
        ) from None
    try:
        device = torch_xla.device()
    except RuntimeError as reason:
        raise DeviceError(
            f"device {name!r}: torch-xla finds none with PJRT_DEVICE={os.environ.get('PJRT_DEVICE', '')!r}; "
            f"use TPU on a TPU host, CPU elsewhere ({str(reason).splitlines()[0]})"
        ) from None
    CORES["xla"] = _keep_highest
    return Xla(device)


def _keep_highest(scores: Tensor, keep: int | Tensor) -> Tensor:
    """The core as a program of its own: one for all layers of a shape, where a step with all of them would be compiled
    for minutes."""
    import torch_xla

    torch_xla.sync()
    mask = keep_highest_by_bisection(scores, keep)
    torch_xla.sync()
    return mask


class Xla:
    """One XLA device, with whatever PJRT_DEVICE names behind it."""

    type = "xla"
    bf16 = True
    read_every = 10

    def __init__(self, device: torch.device) -> None:
        self.torch_device = device

    def prepare(self) -> None:
        from torch_xla import backends

        # A TPU multiplies float32 in one bf16 pass unless told otherwise; bf16 is for the program to ask for.
        if backends.get_mat_mul_precision() != "highest":
            backends.set_mat_mul_precision("highest")

    def move(self, module: nn.Module) -> None:
        """XLA cannot swap a parameter's storage: each of two tied names would get a copy, so they are tied anew."""
        before = dict(module.named_parameters(remove_duplicate=False))
        module.to(self.torch_device)
        first: dict[int, nn.Parameter] = {}
        for name, old in before.items():
            owner, _, last = name.rpartition(".")
            holder = module.get_submodule(owner)
            tied = first.setdefault(id(old), getattr(holder, last))
            setattr(holder, last, tied)

    def place(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value).to(self.torch_device) for name, value in arrays.items()}

    def feed(self, make: Callable[[int], Arrays], until: int) -> Feed:
        source = Ahead(make, until)
        return lambda index: self.place(source(index))

    def numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(self.torch_device)

    def compile(self, function: Function) -> Function:
        return function

    def end_part(self) -> None:
        import torch_xla

        torch_xla.sync()

    def fetch(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        self.end_part()
        return fetch_joined(tensors)

    def wait(self) -> None:
        import torch_xla

        torch_xla.sync(wait=True)

    def peak_memory(self) -> int:
        """0 where the backend does not say, as PJRT's CPU device does not."""
        import torch_xla.core.xla_model as xm

        try:
            return int(xm.get_memory_info(self.torch_device)["peak_bytes_used"])
        except (RuntimeError, KeyError):
            return 0
