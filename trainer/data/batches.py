"""Batch i of a run: a pure function of (prepared data, objective, seed, i), so any worker, resume or branch sees it.

An objective turns raw windows into the tensors that a family's network takes; it is one function and one line in
OBJECTIVES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.augment import augment
from trainer.data.images import NO_LABEL
from trainer.data.order import Indices, permuted, windows_at
from trainer.data.prepared import Prepared
from trainer.data.spans import corrupt, span_lengths
from trainer.errors import DataError
from trainer.parts import OF_IMAGES
from trainer.program import DataStream

Arrays = dict[str, NDArray[Any]]

#: Streams of one seed that must not be correlated.
_TRAIN, _VALIDATION, _AUGMENT, _SUBSET = 0, 1, 2, 3

#: Held-out batches are the same for every seed: losses of all runs of a sweep are measured on one yardstick.
_VALIDATION_SEED = 0

#: Training batches whose places are drawn together.
_BLOCK = 64

#: Which examples `DataStream.unique` keeps, the same for every seed.
_SUBSET_SEED = 0


class Objective(NamedTuple):
    """From stretches of the array to the tensors of a batch.

    raw, stride: items read for one row, and from one row to the next; inputs, targets: positions of one row; make:
    rows and randomness to arrays; augment: what is done to rows for training only; counted: what `DataStream.unique`
    counts of a row.
    """

    raw: int
    stride: int
    inputs: int
    targets: int
    make: Callable[[NDArray[Any], np.random.Philox], Arrays]
    augment: Callable[[NDArray[Any], np.random.Philox], NDArray[Any]] | None = None
    counted: int = 0


def span_corruption(stream: DataStream, prepared: Prepared) -> Objective:
    """T5's objective: inputs [rows, inputs] and targets [rows, targets] of int64."""
    lengths = span_lengths(stream.sequence_length, stream.noise_density, stream.mean_span_length)
    if len(prepared.sentinels) < lengths.spans:
        raise DataError(
            f"span corruption of {stream.sequence_length} positions needs {lengths.spans} sentinels; "
            f"tokenizer {prepared.tokenizer!r} has {len(prepared.sentinels)}"
        )
    marks = np.asarray(prepared.sentinels, np.int64)

    def make(tokens: NDArray[Any], bits: np.random.Philox) -> Arrays:
        inputs, targets = corrupt(tokens.astype(np.int64), lengths, marks, prepared.eos, bits)
        return {"inputs": inputs, "targets": targets}

    return Objective(lengths.raw, lengths.raw, lengths.inputs, lengths.targets, make, counted=lengths.raw)


def causal(stream: DataStream, prepared: Prepared) -> Objective:
    """The next token at every position: inputs and targets [rows, sequence_length] of int64.

    Documents are packed one behind the other and cut into windows; nothing is padded, and a window may hold the end
    of one document and the beginning of the next, with the end token between them. A window's last target is the
    next window's first input, so each token but the array's first is predicted once an epoch.
    """
    length = stream.sequence_length

    def make(tokens: NDArray[Any], bits: np.random.Philox) -> Arrays:
        wide = tokens.astype(np.int64)
        return {"inputs": wide[:, :-1].copy(), "targets": wide[:, 1:].copy()}

    return Objective(length + 1, length, length, length, make, counted=length)


def masked(stream: DataStream, prepared: Prepared) -> Objective:
    """BERT's objective (Devlin et al. 2019, section 3.1): inputs [rows, length], positions and targets [rows, masked].

    Of each row the same number of positions is drawn, so that shapes are static; of these 80 % become the mask,
    10 % a random id and 10 % stay, each drawn by itself.
    """
    length, count = stream.sequence_length, max(1, round(stream.noise_density * stream.sequence_length))
    mask, ids = prepared.mask, prepared.vocab_size
    if mask is None:
        raise DataError(
            f"tokenizer {prepared.tokenizer!r} has no mask token, which masked language models need"
        )

    def make(raw: NDArray[Any], bits: np.random.Philox) -> Arrays:
        tokens, rows = raw.astype(np.int64), len(raw)
        keys = bits.random_raw(rows * length).reshape(rows, length)
        positions = np.sort(np.argsort(keys, axis=1, kind="stable")[:, :count], axis=1)
        targets = np.take_along_axis(tokens, positions, axis=1)
        draw = bits.random_raw(rows * count).reshape(rows, count)
        fate = draw % np.uint64(10)
        other = (draw // np.uint64(10) % np.uint64(ids)).astype(np.int64)
        shown = np.where(fate < 8, mask, np.where(fate < 9, other, targets))
        inputs = tokens.copy()
        np.put_along_axis(inputs, positions, shown, axis=1)
        return {"inputs": inputs, "positions": positions, "targets": targets}

    return Objective(length, length, length, count, make, counted=length)


def image_classification(stream: DataStream, prepared: Prepared) -> Objective:
    """Labelled images: pixels [rows, channels, height, width] float32 in [−1, 1], labels [rows, room] int64.

    Room that an image's labels do not fill is −1. D counts images.
    """
    image, room = prepared.manifest["image"], int(prepared.manifest["labels"])
    height, width, channels = image["height"], image["width"], image["channels"]
    row = 2 * room + height * width * channels

    def augmented(rows: NDArray[Any], bits: np.random.Philox) -> NDArray[Any]:
        pixels = rows[:, 2 * room :].reshape(-1, height, width, channels)
        changed = augment(pixels, bits, flip=stream.random_flip, padding=stream.crop_padding)
        return np.concatenate([rows[:, : 2 * room], changed.reshape(len(rows), -1)], axis=1)

    def make(rows: NDArray[Any], bits: np.random.Philox) -> Arrays:
        labels = np.ascontiguousarray(rows[:, : 2 * room]).view("<u2").astype(np.int64)
        labels[labels == NO_LABEL] = -1
        pixels = rows[:, 2 * room :].reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        return {"pixels": pixels.astype(np.float32) / np.float32(127.5) - 1, "labels": labels}

    changes = stream.random_flip or stream.crop_padding > 0
    return Objective(row, row, 1, 1, make, augmented if changes else None, counted=1)


#: Objectives by the name that `DataStream.objective` uses.
OBJECTIVES: Mapping[str, Callable[[DataStream, Prepared], Objective]] = {
    "span-corruption": span_corruption,
    "causal": causal,
    "masked": masked,
    OF_IMAGES: image_classification,
}


class Batches:
    """The batches of one stream and its fixed held-out batches.

    Raises DataError where the data are too short for one training batch or for the held-out batches.
    """

    def __init__(self, stream: DataStream, prepared: Prepared, *, batch_size: int, seed: int) -> None:
        if prepared.digest != stream.digest:
            raise DataError(
                f"{prepared.path} holds data {prepared.digest[:12]}, the program was planned on "
                f"{stream.digest[:12]}: prepare the source that it names"
            )
        self.objective = objective_of(stream, prepared)
        self.batch_size = batch_size
        self.evaluation_batches = stream.evaluation_batches
        self._evaluation_size = stream.evaluation_batch_size or batch_size
        self._seed = seed
        self._drawn: tuple[int, Indices] = (-1, np.empty(0, np.uint64))
        held_out = self._evaluation_size * self.evaluation_batches
        self._train = Windows(prepared, "train", self.objective, batch_size, unique=stream.unique)
        self._validation = Windows(prepared, "validation", self.objective, held_out)

    @property
    def tokens_per_batch(self) -> int:
        """Input positions of one training batch: what the law counts as D."""
        return self.batch_size * self.objective.inputs

    @property
    def epoch_batches(self) -> float:
        """Batches after which the training data repeat."""
        return len(self._train) / self.batch_size

    def train(self, index: int) -> Arrays:
        """Training batch `index`, counted from 0."""
        rows = self._train.rows(self._places(index))
        if self.objective.augment is not None:
            rows = self.objective.augment(rows, _bits(self._seed, _AUGMENT, index))
        return self.objective.make(rows, _bits(self._seed, _TRAIN, index))

    def _places(self, index: int) -> Indices:
        """Where the rows of training batch `index` are; drawn for many batches at once, which costs little more."""
        block, place = divmod(index, _BLOCK)
        drawn, places = self._drawn
        if drawn != block:
            count = _BLOCK * self.batch_size
            places = windows_at(self._seed, _TRAIN, block * count, count, len(self._train))
            self._drawn = block, places
        return places[place * self.batch_size : (place + 1) * self.batch_size]

    def validation(self, index: int) -> Arrays:
        """Held-out batch `index` of `evaluation_batches`."""
        size = self._evaluation_size
        places = windows_at(_VALIDATION_SEED, _VALIDATION, index * size, size, len(self._validation))
        return self.objective.make(self._validation.rows(places), _bits(_VALIDATION_SEED, _VALIDATION, index))


class Windows:
    """The rows that a split is cut into. Raises DataError where there are fewer than `needed`.

    unique: only a subset of so many tokens or images (0: all), the same for every seed, and a larger one holds the
    smaller ones: a prefix of one fixed permutation of the rows.
    """

    def __init__(
        self, prepared: Prepared, split: str, objective: Objective, needed: int, *, unique: int = 0
    ) -> None:
        self._array, self._objective = prepared.array(split), objective
        self._all = window_count(len(self._array), objective)
        self._count = min(self._all, unique // objective.counted) if unique else self._all
        if self._all < needed:
            raise DataError(
                f"the {split} data in {prepared.path} hold {self._all} stretches of {objective.raw}, "
                f"{needed} are needed: prepare more data, or ask for fewer or smaller batches"
            )
        if self._count < needed:
            raise DataError(
                f"data.unique: {unique} is {self._count} examples, a batch has {needed}: ask for more of them"
            )

    def __len__(self) -> int:
        return self._count

    def rows(self, places: Indices) -> NDArray[Any]:
        """The rows at these places. [len(places), objective.raw]"""
        if self._count < self._all:
            places = permuted(places, _SUBSET_SEED, _SUBSET, self._all)
        return self._array.take(places.astype(np.int64) * self._objective.stride, self._objective.raw)


def objective_of(stream: DataStream, prepared: Prepared) -> Objective:
    """The stream's objective on these data. Raises DataError where it is unknown, or the data do not serve it."""
    if stream.objective not in OBJECTIVES:
        raise DataError(f"objective {stream.objective!r} is unknown: use {', '.join(OBJECTIVES)}")
    return OBJECTIVES[stream.objective](stream, prepared)


def training_rows(stream: DataStream, prepared: Prepared) -> int:
    """Different training examples of a stream: more of them repeat. Raises DataError where there are none."""
    return len(Windows(prepared, "train", objective_of(stream, prepared), 1, unique=stream.unique))


def window_count(items: int, objective: Objective) -> int:
    """Rows in an array of so many items."""
    return max(0, (items - objective.raw) // objective.stride + 1)


def _bits(seed: int, stream: int, index: int) -> np.random.Philox:
    return np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index])
