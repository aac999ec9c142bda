"""Model families. One file here (rules, no torch) and one in `trainer/models` (the network), one line in FAMILIES."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

#: Families by the name that a spec uses; each is a module here and a module in `trainer.models`.
FAMILIES = ("t5", "decoder", "encoder", "vit")


@lru_cache
def rules(family: str) -> Any:
    """The torch-free module of a family: OPTIONS, OBJECTIVES, shape() and more. Raises KeyError on an unknown one."""
    if family not in FAMILIES:
        raise KeyError(family)
    return importlib.import_module(f"trainer.families.{family}")
