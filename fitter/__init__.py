"""Lacuna's fitter: sparsity scaling laws, with uncertainty that can be trusted.

    import fitter
    law = fitter.fit(table)                     # DataFrame, columns, or records
    law.predict(0.75, 21e6, 65e9)               # loss, its interval, and the interval of a new run
    law.optimum(21e6, 1e19)                     # the optimal sparsity for that model and compute

Names are imported when first used, so `import fitter` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitter.comparison import compare
    from fitter.fitting import fit, fit_groups
    from fitter.inverse import compute_for_loss, data_for_loss, dense_equivalent, params_for_loss, pays_from
    from fitter.law import Law
    from fitter.profile import profiles
    from fitter.rollout import roll_out
    from fitter.suggestion import suggest

__version__ = "0.1.0"

_HOME = {
    "Law": "fitter.law",
    "compare": "fitter.comparison",
    "compute_for_loss": "fitter.inverse",
    "data_for_loss": "fitter.inverse",
    "dense_equivalent": "fitter.inverse",
    "fit": "fitter.fitting",
    "fit_groups": "fitter.fitting",
    "params_for_loss": "fitter.inverse",
    "pays_from": "fitter.inverse",
    "profiles": "fitter.profile",
    "roll_out": "fitter.rollout",
    "suggest": "fitter.suggestion",
}
_MODULES = {"accounting", "errors", "figures", "forms", "identifiability", "table"}

__all__ = [
    "Law",
    "compare",
    "compute_for_loss",
    "data_for_loss",
    "dense_equivalent",
    "fit",
    "fit_groups",
    "params_for_loss",
    "pays_from",
    "profiles",
    "roll_out",
    "suggest",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"fitter.{name}")
    raise AttributeError(f"module 'fitter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
