"""Many tensors to the host in one transfer a kind: each transfer waits for the device, and XLA compiles for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def fetch_joined(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Copies on the host, joined by element type on the device and taken apart behind it."""
    found: dict[int, NDArray[Any]] = {}
    for kind in {tensor.dtype for tensor in tensors}:
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == kind]
        joined = torch.cat([tensors[place].detach().reshape(-1) for place in places]).cpu().numpy()
        begin = 0
        for place in places:
            shape = tuple(tensors[place].shape)
            end = begin + math.prod(shape)
            found[place] = joined[begin:end].reshape(shape).copy()
            begin = end
    return [found[place] for place in range(len(tensors))]
