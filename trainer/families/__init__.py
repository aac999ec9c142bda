"""Model families. One file here (rules, no torch) and one in `trainer/models` (the network), one line in FAMILIES."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

#: Families by the name that a spec uses; each is a module here and a module in `trainer.models`.
FAMILIES = ("t5", "decoder", "encoder", "vit")


@lru_cache
def rules(family: str) -> Any:
    """The torch-free module of a family. Raises KeyError on an unknown one.

    Its constants: OPTIONS (a spec's `model:` keys and their defaults), OBJECTIVES (of `trainer.data.batches`, that feed
    it), VOCABULARY (the option that the prepared data decide where a spec leaves it open) and LENGTH (the one that the
    spec's sequence length decides and must not exceed; None: sequences may have any length).
    """
    if family not in FAMILIES:
        raise KeyError(family)
    return importlib.import_module(f"trainer.families.{family}")
