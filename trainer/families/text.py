"""What the families that read token ids have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

VOCABULARY = "vocab_size"


def mismatch(dims: Mapping[str, int], manifest: Mapping[str, Any]) -> str | None:
    """Why a model of these dimensions cannot read prepared data of this manifest; None where it can."""
    if "image" in manifest:
        return "the data are images; this family reads text"
    if manifest["vocab_size"] > dims["vocab_size"]:
        return (
            f"tokenizer {manifest['tokenizer']!r} has {manifest['vocab_size']} ids, the model's vocab_size is "
            f"{dims['vocab_size']}: raise model.vocab_size"
        )
    return None


def guessing(dims: Mapping[str, int]) -> float:
    """The loss of guessing uniformly, nats per target."""
    return math.log(dims["vocab_size"])


def counted(sequence_length: int) -> int:
    """What the law's D counts in one example: its input positions."""
    return sequence_length
