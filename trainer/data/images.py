"""Labelled images: decoded and resized once, when data are prepared.

A prepared array is rows of bytes: room for `max_labels` class numbers of two bytes, NO_LABEL where there are fewer,
then the pixels [height, width, channels].
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data import documents
from trainer.data.source import DIGITS, DataSource
from trainer.data.units import Document
from trainer.errors import DataError

#: Fills the room of labels that an image does not have.
NO_LABEL = 0xFFFF


class Picture(NamedTuple):
    """An image as its source has it: an encoded file or pixels [height, width, channels]; and its class numbers."""

    image: bytes | NDArray[np.uint8]
    labels: tuple[int, ...]


def stream(source: DataSource, cache: Path) -> Iterator[Document]:
    """The images of `source`, in a deterministic order. Raises DataError where they cannot be read.

    An image is on one side only, whatever its labels; twice the same image with the same labels is a duplicate.
    """
    for picture in _digits() if source.source == DIGITS else _table(source, cache):
        data = picture.image if isinstance(picture.image, bytes) else picture.image.tobytes()
        identity = hashlib.sha256(data)
        size, found = len(data), identity.digest()
        identity.update(repr(picture.labels).encode())
        yield Document(picture, size, found, identity.digest())


class ImageEncoder:
    """Stands where text has a tokenizer: all images have the shape of the first, classes are counted as they come.

    size: side to which images are resized, pixels; 0: as they are.
    """

    worth_processes = True

    def __init__(self, size: int, max_labels: int) -> None:
        self.dtype = np.dtype(np.uint8)
        self._size, self._room = size, max_labels
        self._shape: tuple[int, ...] = ()
        self._classes = 0
        self._fewest = max_labels

    def encode(self, content: Picture) -> NDArray[np.uint8]:
        """The row of one image. Raises DataError on another shape, too many labels or one that is no class number."""
        pixels = self._pixels(content.image)
        self._take_shape(pixels.shape)
        if len(content.labels) > self._room:
            raise DataError(
                f"an image has {len(content.labels)} labels, there is room for {self._room}: raise data.max_labels"
            )
        for label in content.labels:
            if not 0 <= label < NO_LABEL:
                raise DataError(f"label {label} is no class number")
            self._classes = max(self._classes, label + 1)
        self._fewest = min(self._fewest, len(content.labels))
        labels = [*content.labels, *[NO_LABEL] * (self._room - len(content.labels))]
        return np.concatenate([np.asarray(labels, "<u2").view(np.uint8), pixels.ravel()])

    def seen(self) -> dict[str, Any]:
        """The shape of the images, one more than the highest class number, the fewest labels of an image."""
        return {"shape": list(self._shape), "classes": self._classes, "fewest": self._fewest}

    def merge(self, seen: dict[str, Any]) -> None:
        """Take over what another encoder has seen. Raises DataError where its images have another shape."""
        if seen["shape"]:
            self._take_shape(tuple(seen["shape"]))
        self._classes = max(self._classes, seen["classes"])
        self._fewest = min(self._fewest, seen["fewest"])

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the images; `row` is the length of a row, bytes."""
        height, width, channels = self._shape or (0, 0, 0)
        return {
            "tokenizer": f"image:{height}x{width}x{channels}:{self._room}:{self._classes}",
            "vocab_size": self._classes,
            "eos": 0,
            "sentinels": [],
            "mask": None,
            "row": 2 * self._room + height * width * channels,
            "image": {"height": height, "width": width, "channels": channels},
            "labels": self._room,
            "fewest_labels": self._fewest,
        }

    def _take_shape(self, shape: tuple[int, ...]) -> None:
        self._shape = self._shape or shape
        if shape != self._shape:
            raise DataError(f"images of {self._shape} and {shape} are mixed: set image_size")

    def _pixels(self, image: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        if isinstance(image, bytes):
            try:
                opened: Any = Image.open(io.BytesIO(image)).convert("RGB")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as reason:
                raise DataError(f"an image cannot be decoded: {reason}") from None
        else:
            if not self._size:
                return image
            opened = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        if self._size:
            opened = opened.resize((self._size, self._size))
        pixels = np.asarray(opened, np.uint8)
        return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _digits() -> Iterator[Picture]:
    """scikit-learn's 1,797 handwritten digits, 8 × 8, values 0 to 16."""
    try:
        digits: Any = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError:
        raise DataError("source digits needs scikit-learn: pip install scikit-learn") from None
    for image, label in zip(digits.images, digits.target, strict=True):
        yield Picture(np.round(image * (255 / 16)).astype(np.uint8)[:, :, None], (int(label),))


def _table(source: DataSource, cache: Path) -> Iterator[Picture]:
    for row in documents.rows(source, cache):
        for column in (source.image_column, source.label_column):
            if column not in row:
                raise DataError(f"the data have no column {column!r}: choose one of {', '.join(row)}")
        yield Picture(_image(row[source.image_column], source), _labels(row[source.label_column], source))


def _image(value: Any, source: DataSource) -> bytes | NDArray[np.uint8]:
    """The encoded image of a row as `datasets` hands it out undecoded, or its pixels where it lies elsewhere."""
    if isinstance(value, dict) and value.get("bytes"):
        return bytes(value["bytes"])
    if isinstance(value, dict) and value.get("path"):
        import datasets

        return np.asarray(datasets.Image().decode_example(value).convert("RGB"), np.uint8)
    raise DataError(f"column {source.image_column!r} holds no images")


def _labels(value: Any, source: DataSource) -> tuple[int, ...]:
    """The class numbers of a row, in ascending order, each once."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        return tuple(sorted({int(label) for label in values if label is not None}))
    except (TypeError, ValueError):
        raise DataError(
            f"column {source.label_column!r} has the label {value!r}: class numbers, or lists of them, are needed"
        ) from None
