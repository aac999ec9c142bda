"""Documents of a source as a stream of bytes: files of text as they are, tables and the hub through `datasets`.

Everything streams: nothing is copied into a cache before it is tokenised, and whatever `datasets` does keep lies
below the folder that is given. Text is read without it, so that a bare accelerator machine can train on some.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data import python_source
from trainer.data.source import LOCAL_KINDS, PYTHON_SOURCE, DataSource, local_files
from trainer.data.tokens import HUB_TIMEOUT
from trainer.data.units import Document, text_document
from trainer.errors import DataError


def stream(source: DataSource, cache: Path) -> Iterator[Document]:
    """The documents of `source`, in a deterministic order. Raises DataError where it cannot be read."""
    for content in _contents(source, cache):
        yield text_document(content)


def _contents(source: DataSource, cache: Path) -> Iterator[bytes]:
    local = source.local
    if source.source == PYTHON_SOURCE:
        yield from python_source.documents()
        return
    if local is not None:
        for file in local_files(local):
            # These need not be UTF-8, and at byte level they need no decoding.
            if not LOCAL_KINDS[file.suffix.lower()]:
                yield file.read_bytes()
    yield from _column(rows(source, cache), source.text_column)


def rows(source: DataSource, cache: Path) -> Iterator[dict[str, Any]]:
    """The rows of the tables of `source`: local files of tables, or a dataset from the hub.

    Images stay encoded: who reads them decodes them in its own process.
    """
    for what, table in _tables(source, cache):
        encoded = source.holds_images and table.features
        found = iter(table.decode(False) if encoded else table)
        while (row := _tried(what, partial(next, found, None))) is not None:
            yield row


def _tried(what: str, read: Callable[[], Any]) -> Any:
    """What it returns. Raises DataError where what is read is damaged, or no table of its kind."""
    # Whatever reads the format has its own kinds of error, and `datasets` wraps some of them.
    try:
        return read()
    except Exception as reason:
        cause = reason.__cause__ or reason
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise DataError(f"{what} cannot be read: {lines[0]}") from reason


def _tables(source: DataSource, cache: Path) -> Iterator[tuple[str, Any]]:
    """What is read, for messages, and the table."""
    local = source.local
    if local is None:
        yield f"dataset {source.source!r}", _hub(_datasets(cache), source, cache)
        return
    by_kind: dict[str, list[str]] = {}
    for file in local_files(local):
        by_kind.setdefault(LOCAL_KINDS[file.suffix.lower()], []).append(str(file))
    for kind, files in sorted(by_kind.items()):
        if kind:
            what = files[0] if len(files) == 1 else f"one of the {len(files)} {kind} files of {source.source}"
            load = partial(
                _datasets(cache).load_dataset, kind, data_files=files, split="train", streaming=True
            )
            yield what, _tried(what, partial(load, cache_dir=str(cache)))


def _datasets(cache: Path) -> Any:
    # Read by the libraries when they are first imported; whoever set them already knows where the cache belongs.
    os.environ.setdefault("HF_HOME", str(cache))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _hub(datasets: Any, source: DataSource, cache: Path) -> Any:
    from huggingface_hub import HfApi

    offline = (
        "save it as parquet, json or text files where it can be reached and name that folder as the source"
    )
    try:
        HfApi().dataset_info(source.source, revision=source.revision or None, timeout=HUB_TIMEOUT)
        return datasets.load_dataset(
            source.source,
            source.subset or None,
            revision=source.revision or None,
            split="train",
            streaming=True,
            cache_dir=str(cache),
        )
    except Exception as reason:  # the hub's client raises a dozen kinds, httpx's among them
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise DataError(
            f"dataset {source.source!r} could not be reached on the Hugging Face hub ({lines[0]}). "
            f"The offline way: {offline}"
        ) from None


def _column(table: Any, column: str) -> Iterator[bytes]:
    for row in table:
        if column not in row:
            raise DataError(
                f"the data have no column {column!r}: text_column must be one of {', '.join(row)}"
            )
        value = row[column]
        if value is not None:
            yield value if isinstance(value, bytes) else str(value).encode("utf-8", errors="surrogatepass")
