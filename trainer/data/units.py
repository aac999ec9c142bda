"""Documents in units of work: what is done at once, by one process, and once only after a kill.

Where a unit ends depends on the documents alone, never on how many processes work, so neither do the arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

#: A unit ends with the document that fills so many bytes.
UNIT_BYTES = 8 << 20


class Document(NamedTuple):
    """content: what is encoded; size: its bytes; identity: SHA-256 that decides the split; key: that of duplicates."""

    content: Any
    size: int
    identity: bytes
    key: bytes


@dataclass(frozen=True)
class Unit:
    """Documents in their order. held_out: whether each belongs to the validation split.

    digest: SHA-256 (hex) of their keys, by which a resumed preparation sees that its source is what it was.
    """

    contents: list[Any]
    held_out: list[bool]
    digest: str


def text_document(content: bytes) -> Document:
    """A text is what its bytes are."""
    identity = hashlib.sha256(content).digest()
    return Document(content, len(content), identity, identity)


def units(documents: Iterable[Document], validation_share: float, unit_bytes: int) -> Iterator[Unit]:
    """Group documents; empty ones and those whose key was seen before are dropped."""
    seen: set[bytes] = set()
    contents: list[Any] = []
    held_out: list[bool] = []
    keys = hashlib.sha256()
    size = 0
    for document in documents:
        if not document.size or document.key in seen:
            continue
        seen.add(document.key)
        keys.update(document.key)
        contents.append(document.content)
        held_out.append(_held_out(document.identity, validation_share))
        size += document.size
        if size >= unit_bytes:
            yield Unit(contents, held_out, keys.hexdigest())
            contents, held_out, keys, size = [], [], hashlib.sha256(), 0
    if contents:
        yield Unit(contents, held_out, keys.hexdigest())


def _held_out(identity: bytes, share: float) -> bool:
    return int.from_bytes(identity[:8], "big") < share * 2**64
