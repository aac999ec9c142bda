"""CUDA: static shapes compiled whole, batches pinned and copied ahead, kernels deterministic unless told otherwise.

A name is `cuda`, or `cuda:1` for one of several.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.devices import Arrays, DeviceError, Feed, Function
from trainer.devices.ahead import Ahead
from trainer.devices.compiled import compiled
from trainer.devices.joined import fetch_joined


def make(name: str) -> Cuda:
    """The GPU of a name. Raises DeviceError where there is none."""
    if not torch.cuda.is_available():
        raise DeviceError(
            f"device {name!r} needs an NVIDIA GPU and a CUDA build of torch; torch {torch.__version__} sees none"
        )
    number = name.partition(":")[2] or "0"
    if not number.isdigit() or int(number) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not there: this machine has {torch.cuda.device_count()} GPUs, from 0"
        )
    return Cuda(int(number))


class Cuda:
    """One GPU. Deterministic kernels are the rule, since a shared or resumed run must have the bits of the other.

    graphs: passes are recorded as CUDA graphs, whose kernels do not wait for the host to launch them one by one. Bits
    are the same. Off until a GPU has shown at which sizes it pays (`benchmarks/train_speed.py` has a row for it).
    deterministic: for that benchmark, which shows what the rule costs.
    """

    type = "cuda"
    spreads = False
    read_every = 10

    def __init__(self, number: int = 0, *, graphs: bool = False, deterministic: bool = True) -> None:
        self._graphs, self._deterministic = graphs, deterministic
        self.torch_device = torch.device("cuda", number)
        self.bf16 = torch.cuda.get_device_capability(number) >= (8, 0)
        self._copies = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]

    def prepare(self) -> None:
        torch.cuda.set_device(self.torch_device)
        # The last run of this process may still be held by reference cycles, and its memory with it.
        gc.collect()
        # cuBLAS reads it once, when the first handle is made.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(self._deterministic)
        # Along with that, every buffer that is about to be written would be filled with NaN first.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        # float32 means float32: bf16 is asked for by the program, TF32 is not on offer, and convolutions have a
        # switch of their own, which is on.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False

    def move(self, module: nn.Module) -> None:
        module.to(self.torch_device)

    def place(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value).to(self.torch_device) for name, value in arrays.items()}

    def feed(self, make: Callable[[int], Arrays], until: int) -> Feed:
        """Copied on a stream of its own from pinned memory, so that a copy hides behind the step before it."""

        def ahead(index: int) -> tuple[dict[str, Tensor], torch.cuda.Event]:
            torch.cuda.set_device(self.torch_device)
            arrays = make(index)
            with torch.cuda.stream(self._copies):
                batch = {
                    name: torch.from_numpy(value).pin_memory().to(self.torch_device, non_blocking=True)
                    for name, value in arrays.items()
                }
                copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record(self._copies)
            return batch, copied

        source = Ahead(ahead, until)

        def take(index: int) -> dict[str, Tensor]:
            batch, copied = source(index)
            current = torch.cuda.current_stream(self.torch_device)
            current.wait_event(copied)
            for tensor in batch.values():
                # The memory was allocated on the other stream: it must not be reused there while this one reads.
                tensor.record_stream(current)
            return batch

        return take

    def numbers(self, values: Sequence[float]) -> Tensor:
        pinned = torch.tensor(values, dtype=torch.float32).pin_memory()
        return pinned.to(self.torch_device, non_blocking=True)

    def compile(self, function: Function) -> Function:
        options = {"options": {"triton.cudagraphs": True}} if self._graphs else {}
        return compiled(function, deterministic=self._deterministic, **options)

    def end_part(self) -> None:
        pass

    def fetch(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        return fetch_joined(tensors)

    def wait(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated(self.torch_device)
