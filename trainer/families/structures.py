"""What can be removed from a family's layers whole: heads of an attention, features of a feed-forward layer."""

from __future__ import annotations

from typing import NamedTuple


class Structure(NamedTuple):
    """Channels that live and die together over several weights [out, in].

    what: the dimension that is cut, as messages name it. Channel i is the i-th of `channels` equal
    stretches of rows in each of `rows`, and of columns in each of `columns`.
    """

    what: str
    channels: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """All weights that have a share in these channels."""
        return self.rows + self.columns


def attention(prefix: str, heads: int, *, suffix: str = "") -> Structure:
    """The heads of one attention: a head's rows of queries, keys and values, and its columns of the projection."""
    rows = tuple(f"{prefix}.{name}{suffix}.weight" for name in "qkv")
    return Structure("heads", heads, rows, (f"{prefix}.o{suffix}.weight",))


def feed_forward(prefix: str, width: int, *, into: tuple[str, ...], out: str) -> Structure:
    """The features of one feed-forward layer: a row of each way in, gate included, and a column of the way out."""
    return Structure(
        "d_ff", width, tuple(f"{prefix}.{name}.weight" for name in into), (f"{prefix}.{out}.weight",)
    )
