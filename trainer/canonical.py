"""Values in canonical form: equal texts, equal values; and their SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from trainer.parts import ProgramError


def key_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, shortest exact floats, 2.0 as 2.

    Raises ProgramError on NaN, infinities and anything that is not plain JSON.
    """
    return digest_of(canonical_text(value))


def canonical_text(value: Any) -> str:
    """A JSON value in canonical form. Raises as `key_of`."""
    return json.dumps(_canonical(value, "$"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(text: str) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any, path: str) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ProgramError(f"{path} is {value}: a key needs finite numbers")
        # 10 and 10.0 are one number to whoever wrote the spec.
        return int(value) if value == int(value) and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(name): _canonical(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise ProgramError(f"{path} is a {type(value).__name__}: a key is made of plain JSON values only")
