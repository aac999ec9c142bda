"""What a spec from elsewhere may name: files, addresses and hub ids that the operator allowed, and nothing else.

The rule knows no list of fields. Whatever text of a spec looks like a path or an address is checked, wherever it
stands, so that a field that is added tomorrow is guarded today; fields that name places (PLACES) are checked even where
their text is a plain word. It runs on the text as read, before anything in it is opened.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.spec.document import Document
from orchestrator.spec.problems import Problem

#: Keys whose text a loader takes for a path, an address or a hub id.
PLACES = ("source", "tokenizer", "start_from")

#: Keys whose text never leaves the data set or the model hub that another key names.
WORDS = ("subset", "revision", "text_column", "image_column", "label_column", "pattern")

#: Words that are built in and read nothing but what comes with the software.
ALWAYS = ("byte", "digits")

#: What is allowed where LACUNA_ALLOWED_SOURCES does not say: hub ids and built-in words, and files under HOME/sources.
DEFAULT = ("*", "*/*")


@dataclass(frozen=True, kw_only=True)
class AllowedSources:
    """What may be named."""

    folders: tuple[Path, ...]
    """Files below these, symbolic links followed."""
    addresses: tuple[str, ...]
    """Addresses that begin so, such as `gs://corpora/`."""
    patterns: tuple[str, ...]
    """Hub ids and words, with `*`: `allenai/*`."""

    @classmethod
    def of(cls, setting: str | None, home: Path) -> AllowedSources:
        """LACUNA_ALLOWED_SOURCES: folders, beginnings of addresses, hub ids with `*`, separated by commas."""
        entries = [entry.strip() for entry in setting.split(",") if entry.strip()] if setting else [*DEFAULT]
        addresses = tuple(entry for entry in entries if "://" in entry)
        folders = [entry for entry in entries if entry not in addresses and entry.startswith(("/", "~"))]
        below = [*map(Path, folders), home / "sources"]
        return cls(
            folders=tuple(path.expanduser().resolve() for path in below),
            addresses=addresses,
            patterns=tuple(entry for entry in entries if entry not in (*addresses, *folders)),
        )

    def problems(self, document: Document) -> list[Problem]:
        """Every text of a spec that names what is not allowed."""
        return [
            Problem(path=path, value=text, message=self._message(), line=document.line(path))
            for path, key, text in _texts(document.value, "", "")
            if not self._allows(path, key, text)
        ]

    def _allows(self, path: str, key: str, text: str) -> bool:
        if key in WORDS or path == "name":  # the sweep's own, which has a rule of its own
            return True
        if "://" in text:
            return any(_below(text, address) for address in self.addresses)
        if _is_path(text, exists=key in PLACES or "/" in text):
            return _within(text, self.folders)
        if key not in PLACES or text in ALWAYS:
            return True
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in self.patterns)

    def _message(self) -> str:
        folders = [path.name if path.name == "sources" else str(path) for path in self.folders]
        return (
            "names a file, an address or a source of the server that callers may not name; allowed are "
            f"{', '.join([*self.patterns, *self.addresses])} and files under {', '.join(folders)} "
            "(LACUNA_ALLOWED_SOURCES of the service)"
        )


def _texts(value: Any, path: str, key: str) -> Iterator[tuple[str, str, str]]:
    """(path, last key, text) of every text of a document."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{path}.{name}" if path else str(name), str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]", key)
    elif isinstance(value, str):
        yield path, key, value


def _is_path(text: str, *, exists: bool) -> bool:
    # A hub id is `name` or `owner/name`; whatever else it could be, a loader would take it for a path.
    if any(sign in text for sign in ("\\", "\0")):
        return True
    parts = text.split("/")
    if len(parts) > 2 or any(not part or part.startswith((".", "~")) for part in parts if "/" in text):
        return True
    if text.startswith(("~", "..")):
        return True
    try:
        return exists and Path(text).exists()
    except OSError:  # a text that is too long to be a name is none
        return False


def _within(text: str, folders: Sequence[Path]) -> bool:
    try:
        place = Path(text).expanduser().resolve()
    except (OSError, ValueError, RuntimeError):
        return False
    return any(place.is_relative_to(folder) for folder in folders)


def _below(text: str, address: str) -> bool:
    """Whether an address lies below another, and not beside it (`gs://corpora-of-others`) or above it by `..`."""
    root = address if address.endswith("/") else f"{address}/"
    rest = text[len(root) :]
    return (
        text.startswith(root) and not any(part in ("..", ".") for part in rest.split("/")) and "%" not in rest
    )
