"""A step waits for nothing: on a device whose numbers cannot be read, as on a GPU they cannot without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.data import Prepared
from trainer.devices import Arrays, Feed
from trainer.devices.cpu import Cpu
from trainer.pack import Pack
from trainer.program import LearningRate, Optimizer, Program, Pruning
from trainer.run import Run

Make = Callable[..., Program]

STEPS = 7


class Crossings(TorchDispatchMode):
    """Counts operations that see tensors on the host and on the device, unless they are on their way there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.expected = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A lone number of the host goes along with a kernel.
        given = {
            each.device.type
            for each in tree_leaves((args, kwargs))
            if isinstance(each, Tensor) and each.dim()
        }
        made = {each.device.type for each in tree_leaves(result) if isinstance(each, Tensor)}
        if len(given | made) > 1 and not self.expected and not (kwargs or {}).get("non_blocking"):
            self.found.append(str(func))
        return result


class Unread(Cpu):
    """Torch's device without values: it computes shapes, and raises where a value is asked for."""

    read_every = 10
    torch_device = torch.device("meta")

    def __init__(self, crossings: Crossings) -> None:
        self._crossings = crossings

    def move(self, module: nn.Module) -> None:
        moved: dict[int, nn.Parameter] = {}  # tied ones stay tied
        for owner in module.modules():
            for name, old in list(owner.named_parameters(recurse=False)):
                setattr(
                    owner, name, moved.setdefault(id(old), nn.Parameter(old.detach().to(self.torch_device)))
                )

    def place(self, arrays: Arrays) -> dict[str, Tensor]:
        with self._expected():
            return {name: value.to(self.torch_device) for name, value in super().place(arrays).items()}

    def feed(self, make: Callable[[int], Arrays], until: int) -> Feed:
        return lambda index: self.place(make(index))

    def numbers(self, values: Sequence[float]) -> Tensor:
        with self._expected():
            return super().numbers(values).to(self.torch_device)

    @contextmanager
    def _expected(self) -> Iterator[None]:
        before, self._crossings.expected = self._crossings.expected, True
        yield
        self._crossings.expected = before


#: Family → its optimiser, and the methods and patterns of a pack.
CASES: dict[str, tuple[Optimizer, list[dict[str, Any]]]] = {
    "t5": (
        Optimizer(),
        [{"method": "gmp", "pattern": "2:4", "end": 4}, {"method": "imp", "start": 1, "end": 5}],
    ),
    "decoder": (
        Optimizer(factored=True),
        [{"method": "rigl", "end": 4}, {"method": "acdc", "start": 2, "end": 6}],
    ),
    "encoder": (
        Optimizer(name="adamw", clip_norm=1.0, weight_decay=0.1),
        [
            {"method": "ste", "end": 4},
            {"method": "set", "end": 4},
            {"pattern": "block:4x4", "end": 4},
            {"method": "static"},
        ],
    ),
    "vit": (
        Optimizer(name="adafactor-vit", weight_decay=0.1),
        [
            {"method": "sr-ste", "end": 4},
            {"distribution": "global", "end": 4},
            {"pattern": "channel", "end": 4},
        ],
    ),
}


@pytest.mark.parametrize("family", CASES)
def test_a_step_waits_for_nothing_and_mixes_no_devices(
    family: str, program: Make, prepared: Prepared, digits: Prepared
) -> None:
    data = digits if family == "vit" else prepared
    optimizer, prunings = CASES[family]
    programs = [
        program(
            STEPS,
            family=family,
            digest=data.digest,
            optimizer=optimizer,
            seed=seed,
            pruning=Pruning(sparsity=0.5, every=2, **chosen),
            learning_rate=LearningRate(base=0.1, warmup=4),
        )
        for seed, chosen in enumerate(prunings)
    ]
    with Crossings() as crossings:
        device, crossings.expected = Unread(crossings), True
        for mover in (Run(programs[0], data, device), Pack([Run(each, data, device) for each in programs])):
            for step in range(STEPS):
                crossings.expected = True
                for run in mover.runs if isinstance(mover, Pack) else [mover]:
                    while run.retrace():
                        pass
                crossings.expected = step == 0  # tables that depend on lengths alone come from the host
                mover.advance()
    assert not crossings.found


def test_what_is_read_and_what_is_mixed_is_found(program: Make, prepared: Prepared) -> None:
    with Crossings() as crossings:
        unread = torch.zeros(3, device="meta")
        with pytest.raises(RuntimeError, match="meta"):
            float(unread.sum())
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            unread[unread > 0]
        torch.ones(3).to("meta")
        assert crossings.found == ["aten._to_copy.default"]
        with pytest.raises(RuntimeError, match="device"):
            unread + torch.ones(3)
