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
    """One chip (`xla`), or several that share each batch (`xla:4`). Raises DeviceError where torch-xla is not installed
    or finds no device, or another number of them."""
    try:
        import torch_xla
        import torch_xla.runtime as runtime
    except ImportError as reason:
        raise DeviceError(
            f"device {name!r} needs torch-xla, which has its own torch: install Lacuna with the extra [tpu] ({reason})"
        ) from None
    number = name.partition(":")[2] or "1"
    try:
        found = runtime.global_runtime_device_count()
        if (
            not number.isdigit()
            or not 1 <= int(number) <= found
            or (int(number) > 1 and int(number) != found)
        ):
            raise DeviceError(f"device {name!r} is not there: use xla for one chip, xla:{found} for all")
        if int(number) > 1:
            runtime.use_spmd()
        device = torch_xla.device()
    except RuntimeError as reason:
        raise DeviceError(
            f"device {name!r}: torch-xla finds none with PJRT_DEVICE={os.environ.get('PJRT_DEVICE', '')!r}; "
            f"use TPU on a TPU host, CPU elsewhere ({str(reason).splitlines()[0]})"
        ) from None
    CORES["xla"] = _keep_highest
    return Xla(device, int(number))


def _keep_highest(scores: Tensor, keep: int | Tensor) -> Tensor:
    """The core as a program of its own: one for all layers of a shape, where a step with all of them would be compiled
    for minutes."""
    import torch_xla

    torch_xla.sync()
    mask = keep_highest_by_bisection(scores, keep)
    torch_xla.sync()
    return mask


class Xla:
    """One XLA device, with whatever PJRT_DEVICE names behind it.

    Several chips are one device to the program (SPMD over a mesh of one axis): the rows of a batch are laid out over
    them, weights and all else on each, and the compiler puts in what they tell each other. There is one mask.
    """

    type = "xla"
    spreads = True
    bf16 = True
    read_every = 10

    def __init__(self, device: torch.device, chips: int = 1) -> None:
        self.torch_device = device
        self._mesh: Any = None
        if chips > 1:
            from torch_xla.distributed import spmd

            self._mesh = spmd.Mesh(range(chips), (chips,), ("batch",))

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
        placed = {name: torch.from_numpy(value).to(self.torch_device) for name, value in arrays.items()}
        if self._mesh is not None:
            from torch_xla.distributed import spmd

            for tensor in placed.values():
                if len(tensor) % self._mesh.size() == 0:
                    spmd.mark_sharding(tensor, self._mesh, ("batch", *[None] * (tensor.dim() - 1)))
        return placed

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
