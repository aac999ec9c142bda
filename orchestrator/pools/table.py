"""The chart's copy of what is known of accelerators: `python -m orchestrator.pools.table` prints it."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.pools.accelerators import ACCELERATORS, ALIASES


def table() -> dict[str, Any]:
    """What `deploy/helm/lacuna/files/accelerators.json` holds."""
    return {
        "accelerators": {
            name: {
                "kind": accelerator.kind,
                "chipsPerHost": list(accelerator.chips_per_host),
                "topologies": list(accelerator.topologies),
                "gkeLabel": accelerator.gke_label,
                "rayGeneration": accelerator.ray_generation,
            }
            for name, accelerator in ACCELERATORS.items()
        },
        "aliases": dict(ALIASES),
    }


if __name__ == "__main__":
    print(json.dumps(table(), indent=1))
