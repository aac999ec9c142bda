"""All parameters of a model as views into one buffer, so that elementwise work is one operation, not one a tensor.

For models of a few thousand weights a step is mostly the cost of calling operations; for large ones this changes
nothing. Every view starts on a 64-byte boundary, which also keeps results of vectorised kernels reproducible.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: float32 values in 64 bytes.
_ALIGNMENT = 16


class FlatParameters:
    """The parameters of `module`, moved into `data`; `names` in the module's order, tied ones once.

    data: [size] float32; views: name → view with the parameter's shape; spare lanes between views stay zero.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
        self.names = list(self.parameters)
        self._offsets: list[int] = []
        offset = 0
        for parameter in self.parameters.values():
            self._offsets.append(offset)
            offset += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.size = offset
        first = next(iter(self.parameters.values()))
        self.data = torch.zeros(self.size, dtype=torch.float32, device=first.device)
        self.views = self.view_of(self.data)
        for name, parameter in self.parameters.items():
            self.views[name].copy_(parameter.detach())
            parameter.data = self.views[name]

    def zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Another buffer of the same layout, all zero."""
        return torch.zeros(self.size, dtype=dtype, device=self.data.device)

    def view_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Name → view into a buffer of this layout, with the parameter's shape."""
        return {
            name: flat[offset : offset + parameter.numel()].view(parameter.shape)
            for (name, parameter), offset in zip(self.parameters.items(), self._offsets, strict=True)
        }

    def stacked_view_of(self, flats: Tensor) -> dict[str, Tensor]:
        """Name → view [P, *shape] into P buffers of this layout, [P, size]."""
        return {
            name: flats[:, offset : offset + parameter.numel()].view(len(flats), *parameter.shape)
            for (name, parameter), offset in zip(self.parameters.items(), self._offsets, strict=True)
        }
