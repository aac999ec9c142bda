"""All parameters of a model as views into one buffer, so that elementwise work is one operation, not one a tensor.

For models of a few thousand weights a step is mostly the cost of calling operations; for large ones this changes
nothing. Every view starts on a 64-byte boundary, which also keeps results of vectorised kernels reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    def move_to(self, data: Tensor) -> None:
        """Lie in another buffer [size] from now on, with the values of now."""
        data.copy_(self.data)
        self.data, self.views = data, self.view_of(data)
        for name, parameter in self.parameters.items():
            parameter.data = self.views[name]

    def zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Another buffer of the same layout, all zero."""
        return torch.zeros(self.size, dtype=dtype, device=self.data.device)

    def view_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Name → view [..., *shape] into a buffer of this layout, [size], or into several, [P, size]."""
        return {
            name: flat[..., offset : offset + parameter.numel()].view(*flat.shape[:-1], *parameter.shape)
            for (name, parameter), offset in zip(self.parameters.items(), self._offsets, strict=True)
        }


class StackedParameters:
    """The parameters of P models of one shape as the rows of one buffer: what is done to all is one operation.

    data: [P, size]; views: name → [P, *shape]. The models' own `FlatParameters` are its rows from now on; of one model
    alone it is the very memory.
    """

    def __init__(self, members: Sequence[FlatParameters]) -> None:
        self.layout = first = members[0]
        self.members = len(members)
        if self.members == 1:
            if first.data._is_view():  # a row of models that have left: it shall not keep their memory
                first.move_to(first.zeros())
            self.data = first.data[None]
        else:
            self.data = first.data.new_empty(self.members, first.size)
            for row, member in zip(self.data, members, strict=True):
                member.move_to(row)
        self.views = self.view_of(self.data)

    def zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Another buffer of the same layout, [P, size], all zero."""
        return torch.zeros(self.data.shape, dtype=dtype, device=self.data.device)

    def view_of(self, flats: Tensor) -> dict[str, Tensor]:
        """Name → view [P, *shape] into a buffer of this layout."""
        return self.layout.view_of(flats)
