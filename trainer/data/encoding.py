"""From documents to the bytes of arrays, in this process or in several."""

from __future__ import annotations

import collections
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.images import ImageEncoder
from trainer.data.source import DataSource
from trainer.data.tokens import tokenizer_for
from trainer.data.units import Unit
from trainer.errors import DataError


class Encoder(Protocol):
    """What turns a document's content into a row of ids or bytes.

    worth_processes: whether that takes long enough for several processes to pay.
    """

    worth_processes: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the prepared array."""
        ...

    def encode(self, content: Any) -> NDArray[Any]:
        """One document's items. Raises DataError on a document that cannot be read."""
        ...

    def seen(self) -> dict[str, Any]:
        """What is known of the documents encoded so far; goes into the journal."""
        ...

    def merge(self, seen: dict[str, Any]) -> None:
        """Take over what another encoder of the same source has seen. Raises DataError where that does not fit."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the data: tokenizer, vocab_size, eos, sentinels, mask, and more."""
        ...


class Encoded(NamedTuple):
    """A unit's bytes by split, and what its encoder saw."""

    unit: Unit
    parts: dict[str, bytes]
    seen: dict[str, Any]


def encoder_for(source: DataSource, cache: Path) -> Encoder:
    """The encoder of a source. Raises DataError where its tokenizer cannot be loaded."""
    if source.holds_images:
        return ImageEncoder(source.image_size, source.max_labels)
    return tokenizer_for(source.tokenizer, cache)


def encoded(
    units: Iterator[Unit], encoder: Encoder, source: DataSource, cache: Path, workers: int
) -> Iterator[Encoded]:
    """The units in their order. Where there are several and it pays, `workers` processes share the work.

    Raises DataError where a process dies.
    """
    first, second = next(units, None), next(units, None)
    if first is None:
        return
    if second is None or workers < 2 or not encoder.worth_processes:
        for unit in _chained(first, second, units):
            yield Encoded(unit, *_encode(encoder, unit))
        return
    # Not fork: whoever prepares may have threads, of which a fork copies the locks and not the owners.
    context = multiprocessing.get_context("spawn")
    pending: collections.deque[tuple[Unit, Future[tuple[dict[str, bytes], dict[str, Any]]]]]
    pending = collections.deque()
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(source, cache))
    try:
        for unit in _chained(first, second, units):
            pending.append((unit, pool.submit(_encode_here, unit)))
            if len(pending) > workers + 1:
                done, future = pending.popleft()
                yield Encoded(done, *future.result())
        for done, future in pending:
            yield Encoded(done, *future.result())
    except BrokenProcessPool:
        raise DataError(
            "a process that prepares data was killed, perhaps for its memory: prepare again with fewer workers, "
            "it goes on where it was"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _chained(first: Unit, second: Unit | None, rest: Iterable[Unit]) -> Iterator[Unit]:
    yield first
    if second is not None:
        yield second
        yield from rest


def _encode(encoder: Encoder, unit: Unit) -> tuple[dict[str, bytes], dict[str, Any]]:
    rows: dict[str, list[bytes]] = {"train": [], "validation": []}
    for content, held_out in zip(unit.contents, unit.held_out, strict=True):
        data = encoder.encode(content).astype(encoder.dtype, copy=False).tobytes()
        rows["validation" if held_out else "train"].append(data)
    return {split: b"".join(parts) for split, parts in rows.items()}, encoder.seen()


#: The encoder of a worker process.
_encoders: list[Encoder] = []


def _start(source: DataSource, cache: Path) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _encoders.append(encoder_for(source, cache))


def _encode_here(unit: Unit) -> tuple[dict[str, bytes], dict[str, Any]]:
    return _encode(_encoders[0], unit)
