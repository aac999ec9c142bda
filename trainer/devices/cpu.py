"""The CPU: one thread a process, so that results do not depend on how many cores a machine has."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.devices import Arrays, Feed, Function


def make(name: str) -> Cpu:
    """The backend; there is one CPU."""
    return Cpu()


class Cpu:
    """Sums are split by thread, so another thread count gives other last bits: it is always one.

    Nothing is compiled: `torch.compile` gains nothing for small transformers on one thread, and costs a minute.
    """

    type = "cpu"
    spreads = False
    bf16 = False
    read_every = 1

    def prepare(self) -> None:
        torch.set_num_threads(1)

    def move(self, module: nn.Module) -> None:
        pass

    def place(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def feed(self, make: Callable[[int], Arrays], until: int) -> Feed:
        return lambda index: self.place(make(index))

    def numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)

    def compile(self, function: Function) -> Function:
        return function

    def end_part(self) -> None:
        pass

    def fetch(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        return [tensor.detach().numpy().copy() for tensor in tensors]

    def wait(self) -> None:
        pass

    def peak_memory(self) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
