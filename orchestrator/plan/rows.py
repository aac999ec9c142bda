"""A plan as the rows that the ledger takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.plan.plan import Plan


def segment_rows(plan: Plan, data_path: str) -> Iterator[dict[str, Any]]:
    """The segments of a plan as the ledger takes them."""
    for segment in plan.segments:
        yield {
            "key": segment.key,
            "parent_key": segment.parent,
            "start_step": segment.start,
            "end_step": segment.end,
            "program": json.dumps(segment.program.to_dict()),
            "data_path": data_path,
            "flops": segment.flops,
            "priority": segment.priority,
        }


def run_rows(plan: Plan, places: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """The runs of a plan as the ledger takes them; `places`: only these."""
    for place in range(len(plan.runs)) if places is None else places:
        run, path = plan.runs[place], plan.paths[place]
        yield {"name": run.name, "cell": run.columns(), "tip_key": path[-1], "path": path}
