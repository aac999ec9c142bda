"""What a spec says about its data, as one value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError

#: The corpus that every machine has: Python source of the standard library and of the installed packages.
PYTHON_SOURCE = "python-source"

#: Images that every machine with scikit-learn has.
DIGITS = "digits"

#: Endings of local files that can be read, and the `datasets` builder that reads them ("" : as text, by ourselves).
LOCAL_KINDS = {
    **{".txt": "", ".py": "", ".md": ""},
    **{".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"},
}

#: What `Dataset.save_to_disk` writes beside its arrow files.
_BESIDE_ARROW = ("dataset_dict.json", "dataset_info.json", "state.json")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A corpus and how it is turned into tokens.

    source: `python-source`, a local file or folder, or the id of a dataset on the Hugging Face hub.
    subset, revision: configuration name and commit of a hub dataset; empty for none.
    text_column: the column that holds the text, where the source has columns.
    tokenizer: `byte` (ByT5's scheme, no vocabulary to download) or a `transformers` tokenizer id or directory.
    max_tokens: at most so many training tokens (for images: images); 0 for all. The cut is deterministic.
    validation_share: the share of documents that is held out, chosen by a hash of their content.
    image_column, label_column, image_size: where the source holds images: their column, that of their class numbers
    (a number or a list of them), and the side to which they are resized (0: as they are). Source `digits` needs none.
    max_labels: room for so many labels an image.
    """

    source: str = PYTHON_SOURCE
    subset: str = ""
    revision: str = ""
    text_column: str = "text"
    tokenizer: str = "byte"
    max_tokens: int = 0
    validation_share: float = 0.01
    image_column: str = ""
    label_column: str = "label"
    image_size: int = 0
    max_labels: int = 1

    def __post_init__(self) -> None:
        if not self.source:
            raise DataError("the data source is empty: name python-source, a file or folder, or a dataset id")
        if self.max_tokens < 0:
            raise DataError(f"max_tokens is {self.max_tokens}: use 0 for no limit")
        if self.max_labels < 1:
            raise DataError(f"max_labels is {self.max_labels}: an image has room for at least 1")
        if not 0 < self.validation_share < 1:
            raise DataError(f"validation_share is {self.validation_share}: it must lie between 0 and 1")

    @property
    def holds_images(self) -> bool:
        """Whether documents are images, not text."""
        return holds_images(self.source, self.image_column)

    @property
    def local(self) -> Path | None:
        """The file or folder that this source names, None for anything else. Raises DataError if it is missing."""
        path = Path(self.source).expanduser()
        if self.source in (PYTHON_SOURCE, DIGITS):
            return None
        if path.exists():
            return path
        if self.source.startswith(("/", ".", "~")) or path.suffix in LOCAL_KINDS:
            raise DataError(f"there is no file or folder {self.source!r} to read data from")
        return None

    def fingerprint(self) -> str:
        """SHA-256 of this value and of the names, sizes and times of local files: decides whether to prepare anew.

        The Python corpus is prepared once and kept: installing another package does not make a new corpus.
        """
        facts: dict[str, Any] = dataclasses.asdict(self)
        if not self.holds_images:
            for name in ("image_column", "label_column", "image_size", "max_labels"):
                del facts[name]
        local = self.local
        if local is not None:
            facts["source"] = str(local.resolve())
            facts["files"] = [
                [name.relative_to(local).as_posix(), name.stat().st_size, name.stat().st_mtime_ns]
                for name in local_files(local)
            ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def holds_images(source: str, image_column: str) -> bool:
    """Whether a source with this column of images, or none (""), is one of images."""
    return source == DIGITS or bool(image_column)


def local_files(path: Path) -> list[Path]:
    """The readable files at `path`, sorted by their relative names, hidden ones left out. Raises DataError where there
    are none."""
    if path.is_file():
        found = [path] if path.suffix.lower() in LOCAL_KINDS else []
    else:
        found = []
        for folder, folders, names in os.walk(path):
            # As `datasets` does; what this program itself keeps in a folder of its own is hidden too.
            folders[:] = [name for name in folders if not name.startswith(".")]
            shown = (Path(folder, name) for name in names if not name.startswith("."))
            found += [file for file in shown if file.suffix.lower() in LOCAL_KINDS]
        found.sort()
        if any(file.suffix.lower() == ".arrow" for file in found):
            found = [file for file in found if file.name not in _BESIDE_ARROW]
    if not found:
        raise DataError(f"{str(path)!r} holds no file that ends in {', '.join(LOCAL_KINDS)}")
    return found
