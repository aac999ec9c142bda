"""The device interface: what is not there is refused, batches come ahead unharmed, a GPU compiles once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trainer.data import Prepared
from trainer.devices import DeviceError, device_for
from trainer.devices.ahead import Ahead
from trainer.devices.cuda import Cuda
from trainer.devices.joined import fetch_joined
from trainer.program import Program
from trainer.run import Run

Make = Callable[..., Program]


def test_what_is_not_there_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(DeviceError, match="device 'tpu' is unknown: use cpu, cuda, xla"):
        device_for("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(
            DeviceError, match="device 'cuda:3' needs an NVIDIA GPU and a CUDA build of torch"
        ):
            device_for("cuda:3")


def test_batches_made_ahead_are_those_asked_for_in_any_order() -> None:
    made: list[int] = []

    def make(index: int) -> int:
        made.append(index)
        if index == 7:
            raise ValueError("no batch 7")
        return index * index

    ahead = Ahead(make, until=6)
    assert [ahead(index) for index in (0, 1, 2, 5, 3, 4, 5)] == [0, 1, 4, 25, 9, 16, 25]
    assert max(made) == 5, "nothing beyond the last is made"
    with pytest.raises(ValueError, match="no batch 7"):
        ahead(7)


def test_tensors_fetched_together_are_copies_of_each() -> None:
    tensors = [torch.rand(3, 4), torch.rand(5) < 0.5, torch.rand(()), torch.arange(6).view(2, 3)]
    for tensor, array in zip(tensors, fetch_joined(tensors), strict=True):
        assert array.shape == tuple(tensor.shape)
        assert np.array_equal(array, tensor.numpy())
        tensor.zero_()
    assert fetch_joined([]) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_as_the_cpu_does_and_compiles_once(program: Make, prepared: Prepared) -> None:
    chosen = program(24, sparsity=0.5)
    there, here = Run(chosen, prepared, device_for("cuda")), Run(chosen, prepared, device_for("cpu"))
    torch._dynamo.utils.counters.clear()
    compiled = []
    for _ in range(chosen.steps):
        assert float(there.advance()) == pytest.approx(float(here.advance()), abs=1e-3)
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compiled[2:] == [compiled[2]] * (chosen.steps - 2)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert not there.pruner.missed()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", [False, True])
def test_a_gpu_gives_the_same_bits_again_and_as_graphs_too(
    graphs: bool, program: Make, prepared: Prepared
) -> None:
    chosen = program(16, sparsity=0.5)
    first, second = Run(chosen, prepared, Cuda(0)), Run(chosen, prepared, Cuda(0, graphs=graphs))
    for _ in range(chosen.steps):
        assert float(first.advance()) == float(second.advance())
    for name, weight in first.state().weights.items():
        assert np.array_equal(weight, second.state().weights[name]), name
