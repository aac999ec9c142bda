"""Changes to training images that keep their labels, drawn for a whole batch at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def augment(pixels: NDArray[np.uint8], bits: np.random.Philox, *, flip: bool, padding: int) -> NDArray[Any]:
    """Mirror every image left to right with chance one half; shift it by up to `padding` pixels, black behind it.

    pixels: [rows, height, width, channels]; the result has the same shape. `bits` supplies raw generator output only,
    whose stream NumPy keeps stable; the same bits give the same images.
    """
    rows, height, width, _ = pixels.shape
    mirrored, down, right = bits.random_raw(3 * rows).reshape(3, rows)
    if flip:
        pixels = np.where(
            (mirrored >> np.uint64(63)).astype(bool)[:, None, None, None], pixels[:, :, ::-1], pixels
        )
    if padding:
        around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        wide = np.pad(pixels, around)
        choices = np.uint64(2 * padding + 1)
        top = (down % choices).astype(np.int64)[:, None, None] + np.arange(height)[None, :, None]
        left = (right % choices).astype(np.int64)[:, None, None] + np.arange(width)[None, None, :]
        pixels = wide[np.arange(rows)[:, None, None], top, left]
    return pixels
