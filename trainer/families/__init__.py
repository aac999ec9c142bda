"""Model families: each a file of this folder, found by itself.

A family is a module that has, beside functions of shape, count, pruning and initialisation:

- OPTIONS: a spec's `model:` keys and their defaults; a module without it is no family.
- OBJECTIVES: those of `trainer.data.batches` that feed it.
- VOCABULARY: the option that the prepared data decide where a spec leaves it open.
- LENGTH: the option that the spec's sequence length decides and must not exceed; None: sequences may have any length.
- STACKED: whether its network takes stacked weights (`trainer.models.stacked`), so that runs of it can be packed.
- build: its network, a `trainer.models.Network`. Torch is imported in there only: plans are made on machines without
  it. The families of this project have theirs in `trainer.models`.

Its docstring begins with what it is, up to a colon. `tests/trainer/a_family.py` is a whole one.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from typing import Any


@lru_cache
def _found() -> dict[str, Any]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "OPTIONS")}


def rules(family: str) -> Any:
    """The torch-free module of a family. Raises KeyError on an unknown one."""
    return _found()[family]


#: Families by the name that a spec uses.
FAMILIES = tuple(_found())


def summary(family: str) -> str:
    """What a family is, in a few words."""
    return str(rules(family).__doc__).partition(":")[0]
