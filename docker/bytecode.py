"""Bytecode beside the sources that the processes of a Ray node import.

A node is a dozen Python processes on a read-only file system, which would each compile the same sources for half a
minute. Sources that nobody imports stay without: they are four fifths, and minutes of building.
"""

from __future__ import annotations

import compileall
import importlib
from importlib.util import cache_from_source, find_spec
from pathlib import Path

#: By the package whose layer it is: what imports all that the processes of such an image import.
IMPORTED = {
    "ray": "ray.tune ray.job_submission sqlalchemy.dialects.postgresql alembic psycopg pydantic httpx rich gcsfs s3fs",
    "mlflow": "mlflow matplotlib.pyplot datasets scipy.optimize scipy.stats",
    "torch": "torch torch.func transformers.models.t5.modeling_t5 transformers.models.vit.modeling_vit "
    "transformers.models.llama.modeling_llama transformers.models.bert.modeling_bert",
}

#: Whole, since their processes find modules of theirs by name, or late.
WHOLE = ("ray", "orchestrator", "fitter", "trainer", "ledger")


def folder(package: str) -> Path | None:
    """Where a package is, unless it is missing or a layer below has compiled it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None or Path(cache_from_source(spec.origin)).exists():
        return None
    return Path(spec.origin).parent


def main() -> None:
    """Compile what the layer just brought."""
    new = {package: place for package in (*IMPORTED, *WHOLE) if (place := folder(package))}
    for package in WHOLE:
        if package in new:
            compileall.compile_dir(new[package], quiet=2, workers=0)
    for package, modules in IMPORTED.items():
        if package in new:
            for name in modules.split():
                importlib.import_module(name)


if __name__ == "__main__":
    main()
