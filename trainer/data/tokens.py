"""Tokenisers behind one small face: text or bytes in, ids out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

#: Seconds to wait for the hub's first answer: unreachable must be said at once, not after minutes of retries.
HUB_TIMEOUT = 10.0


class ByteTokenizer:
    """ByT5's scheme (Xue et al. 2022, section 3): a byte b is id b + 3; 0 pads, 1 ends, 2 is unknown.

    125 sentinels fill the vocabulary of 384 from the top downwards; the first is also the mask.
    """

    #: An addition; sending it elsewhere costs more.
    worth_processes = False

    def __init__(self) -> None:
        self.dtype = np.dtype(np.uint16)
        self.eos = 1
        self.sentinels = list(range(383, 258, -1))

    def encode(self, content: bytes) -> NDArray[np.unsignedinteger[Any]]:
        """The ids of one document, its closing `eos` among them."""
        ids = np.full(len(content) + 1, self.eos, np.uint16)
        np.add(np.frombuffer(content, np.uint8), 3, out=ids[:-1], dtype=np.uint16)
        return ids

    def seen(self) -> dict[str, Any]:
        """Nothing is learned from documents."""
        return {}

    def merge(self, seen: dict[str, Any]) -> None:
        """Nothing is learned from documents."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the ids."""
        return {
            "tokenizer": "byte",
            "vocab_size": 384,
            "eos": self.eos,
            "sentinels": self.sentinels,
            "mask": self.sentinels[0],
        }


class PretrainedTokenizer:
    """Any `transformers` tokenizer, from a directory or the hub; downloads stay in `cache`, code is never run.

    Its vocabulary and its rules, not its name, go into the data's digest. Text that spells a special token is text.
    """

    worth_processes = True

    def __init__(self, name: str, cache: Path) -> None:
        self._name, self._cache = name, cache
        self._tokenizer: Any = self._load()
        self._tokenizer.model_max_length = 1 << 60  # documents are cut into windows later, not here
        self._vocab_size = 1 + max(len(self._tokenizer) - 1, *self._tokenizer.get_vocab().values())
        self.dtype = np.dtype(np.uint16 if self._vocab_size <= 1 << 16 else np.uint32)
        self.eos = self._ending()
        self.sentinels = self._sentinels()

    def encode(self, content: bytes) -> NDArray[np.unsignedinteger[Any]]:
        """The ids of one document, its closing `eos` among them; what is no UTF-8 is replaced."""
        text = content.decode("utf-8", errors="replace")
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = np.asarray([*found, self.eos], self.dtype)
        # Some vocabularies list their special tokens among the words, where no option keeps text from spelling them.
        spelled = np.isin(ids[:-1], [self.eos, *self.sentinels])
        kept: NDArray[np.unsignedinteger[Any]] = ids[np.append(~spelled, True)]
        return kept

    def seen(self) -> dict[str, Any]:
        """Nothing is learned from documents."""
        return {}

    def merge(self, seen: dict[str, Any]) -> None:
        """Nothing is learned from documents."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the ids; `tokenizer` identifies it by its content."""
        mask = self._tokenizer.mask_token_id
        return {
            "tokenizer": f"transformers:{self._content()[:24]}",
            "vocab_size": self._vocab_size,
            "eos": self.eos,
            "sentinels": self.sentinels,
            "mask": int(mask) if mask is not None else next(iter(self.sentinels), None),
        }

    def _content(self) -> str:
        """SHA-256 of all that decides which ids a text becomes."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        rules = backend.to_str() if backend is not None else type(self._tokenizer).__name__
        parts = [rules, sorted(self._tokenizer.get_vocab().items()), self.eos, self.sentinels]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _ending(self) -> int:
        for ending in (self._tokenizer.eos_token_id, self._tokenizer.sep_token_id):
            if ending is not None:
                return int(ending)
        raise DataError(f"tokenizer {self._name!r} has no end-of-sequence token to put between documents")

    def _sentinels(self) -> list[int]:
        unknown, found = self._tokenizer.unk_token_id, []
        for index in range(200):
            sentinel = self._tokenizer.convert_tokens_to_ids(f"<extra_id_{index}>")
            if sentinel is None or sentinel == unknown:
                break
            found.append(int(sentinel))
        return found

    def _load(self) -> Any:
        from huggingface_hub import HfApi
        from transformers import AutoTokenizer

        options = {"trust_remote_code": False, "cache_dir": str(self._cache)}
        try:
            return AutoTokenizer.from_pretrained(self._name, local_files_only=True, **options)
        except (OSError, ValueError) as reason:
            absent = reason
        try:
            if Path(self._name).exists():
                raise absent
            # Asked once first: the loader itself tries an unreachable hub for a minute.
            HfApi().model_info(self._name, timeout=HUB_TIMEOUT)
            return AutoTokenizer.from_pretrained(self._name, **options)
        except Exception as reason:  # the hub's client raises a dozen kinds, httpx's among them
            raise DataError(
                f"tokenizer {self._name!r} could not be loaded: give a directory that holds it (the offline way), "
                f"or tokenizer: byte, which needs none ({str(reason).strip().splitlines()[0]})"
            ) from None


def tokenizer_for(name: str, cache: Path) -> ByteTokenizer | PretrainedTokenizer:
    """The tokenizer of that name. Raises DataError where it cannot be loaded."""
    return ByteTokenizer() if name == "byte" else PretrainedTokenizer(name, cache)
