"""`torch.compile` as training needs it: whole graphs of fixed shapes, as many as there are, the same bits again."""

from __future__ import annotations

from typing import Any, cast

import torch

from trainer.devices import Function

#: Graphs that one function may be compiled to in a process: a worker trains one shape after the other, and each has a
#: graph for training and one for evaluation. Torch's own limit, 8, is an error where graphs must be whole.
_GRAPHS = 10_000


def compiled(function: Function, *, deterministic: bool = True, **options: Any) -> Function:
    """The function, compiled whole at its first call, and again for other shapes. options: of `torch.compile`."""
    dynamo, inductor = torch._dynamo.config, torch._inductor.config
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = _GRAPHS
    # What is fastest is found out by trying, and sums are taken in another order by what is found: no two processes
    # would have the same bits. Newer versions of torch do this along with deterministic algorithms.
    if hasattr(inductor, "deterministic"):
        inductor.deterministic = deterministic
    else:
        inductor.triton.autotune_pointwise = not deterministic
    return cast(Function, torch.compile(function, fullgraph=True, dynamic=False, **options))
