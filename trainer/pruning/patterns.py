"""Patterns: which sets of weights a mask may keep.

A pattern chooses over all linear layers at once, since `channel` ties layers together. A unit is what stays or goes
whole: one weight, a block, or a layer's part of a channel; the score of a unit is the sum of its weights' scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.families.structures import Structure
from trainer.pruning.mask import keep_highest, keep_highest_in_groups
from trainer.pruning.rules import Blocks, Channels, Groups, parsed

#: (name → scores [out, in], name → weights to keep, a whole number of units) → name → mask, of the names to keep.
Choose = Callable[[Mapping[str, Tensor], Mapping[str, int]], dict[str, Tensor]]


def pattern_for(name: str, structures: Sequence[Structure]) -> Choose:
    """The pattern of that name over layers with these structures. Raises ValueError on an unknown one."""
    kind = parsed(name)
    if isinstance(kind, Channels):
        return lambda scores, keep: keep_channels(scores, keep, structures)
    return lambda scores, keep: {name: _layer(kind, scores[name], keep[name]) for name in keep}


def unit_sizes(name: str, sizes: Mapping[str, int], structures: Sequence[Structure]) -> dict[str, int]:
    """Name → how many weights of a layer of that many make one unit of a pattern."""
    kind = parsed(name)
    if isinstance(kind, Channels):
        return {member: sizes[member] // one.channels for one in structures for member in one.members}
    unit = kind.rows * kind.columns if isinstance(kind, Blocks) else 1
    return dict.fromkeys(sizes, unit)


def keep_blocks(scores: Tensor, keep: int, rows: int, columns: int) -> Tensor:
    """Mask of the blocks of `rows` × `columns` with the highest sums, `keep` weights in all; ties to the lower index.

    Blocks count in row-major order. Scores [out, in] whose dimensions the blocks tile; keep a multiple of their size.
    """
    height, width = scores.shape[0] // rows, scores.shape[1] // columns
    totals = scores.reshape(height, rows, width, columns).sum((1, 3))
    kept = keep_highest(totals, keep // (rows * columns))
    return kept[:, None, :, None].expand(height, rows, width, columns).reshape(scores.shape)


def keep_channels(
    scores: Mapping[str, Tensor], keep: Mapping[str, int], structures: Sequence[Structure]
) -> dict[str, Tensor]:
    """Masks of the channels with the highest sums over all members of their structure; ties to the lower index."""
    masks = {}
    for one in structures:
        parts, shapes = [], {}
        for name in one.members:
            found = scores[name]
            shapes[name] = found.shape
            split = (one.channels, -1) if name in one.rows else (len(found), one.channels, -1)
            parts.append(found.reshape(split).sum(1 if name in one.rows else (0, 2)))
        member = one.members[0]
        channels = keep[member] * one.channels // shapes[member].numel()
        kept = keep_highest(torch.stack(parts).sum(0), channels)
        for name, shape in shapes.items():
            by_row = name in one.rows
            wide = _widened(kept, shape[0] if by_row else shape[1])
            masks[name] = (wide[:, None] if by_row else wide).expand(shape)
    return masks


def _layer(kind: object, scores: Tensor, keep: int) -> Tensor:
    if isinstance(kind, Groups):
        return keep_highest_in_groups(scores, keep, kind.kept, kind.size)
    if isinstance(kind, Blocks):
        return keep_blocks(scores, keep, kind.rows, kind.columns)
    return keep_highest(scores, keep)


def _widened(channels: Tensor, length: int) -> Tensor:
    """[count] to [length]: each channel is an equal stretch."""
    return channels[:, None].expand(-1, length // len(channels)).reshape(length)
