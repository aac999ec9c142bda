"""Optimisers. One file each and one line in OPTIMIZERS; all state is flat buffers that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainer.flat import StackedParameters
from trainer.optim.adafactor import AdaFactor
from trainer.optim.adafactor_vit import VitAdaFactor
from trainer.optim.adamw import AdamW
from trainer.optim.update import Update
from trainer.program import Optimizer


def build(optimizer: Optimizer, parameters: StackedParameters) -> Update:
    """The optimiser that a program names; `Program` has checked that there is one."""
    return OPTIMIZERS[optimizer.name](optimizer, parameters)


#: Optimisers by the name that `Optimizer.name` uses; the names stand in `trainer.program` too, which has no torch.
OPTIMIZERS: Mapping[str, Callable[[Optimizer, StackedParameters], Update]] = {
    "adafactor": AdaFactor,
    "adafactor-vit": VitAdaFactor,
    "adamw": AdamW,
}
