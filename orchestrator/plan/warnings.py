"""What will disappoint, said before a FLOP is spent."""

from __future__ import annotations

from collections.abc import Sequence

from fitter.identifiability import gate
from orchestrator.plan.programs import PlannedRun
from orchestrator.spec.cells import idle_exclusions
from orchestrator.spec.schema import Spec

#: Relative miss of a target size that is worth a word.
MISS = 0.02


def warnings(
    spec: Spec, runs: Sequence[PlannedRun], repeats: Sequence[float] | None, *, prepared: bool
) -> list[str]:
    """One sentence each. `repeats`: how often each run goes through its data; None: not known."""
    found = []
    lengths = {run.cell.steps for run in runs}
    if spec.training.learning_rate.schedule == "cosine" and len(lengths) > 1:
        found.append(
            "the cosine schedule is tied to the run's length: runs of different length share nothing "
            "(rsqrt or constant do)"
        )
    off = {run.name: run.shape.error for run in runs if abs(run.shape.error) > MISS}
    if off:
        name, error = max(off.items(), key=lambda item: abs(item[1]))
        found.append(
            f"{len(off)} of {len(runs)} runs miss their size by over {MISS:.0%} (worst: {name}, {error:+.1%})"
        )
    for index in idle_exclusions(spec.grid):
        found.append(
            f"grid.exclude[{index}] leaves out no cell: {spec.grid.exclude[index]} is not in the grid"
        )
    budget, cheapest = spec.execution.budget_flops, min(run.flops_per_step * run.cell.steps for run in runs)
    if budget is not None and budget < cheapest:
        found.append(
            f"execution.budget_flops, {budget:.4g}, has room for no cell: the cheapest takes {cheapest:.4g} FLOPs from "
            "its beginning"
        )
    if not prepared:
        found.append("the data is not prepared here: nothing can be matched with earlier sweeps yet")
    again = [(times, run.name) for times, run in zip(repeats or (), runs, strict=False) if times > 1]
    if again:
        times, name = max(again)
        found.append(
            f"{len(again)} of {len(runs)} runs go through their data more than once (most: {name}, {times:.3g} times): "
            "the law takes data for fresh"
        )
    return found + _law(spec, runs, repeats)


def _law(spec: Spec, runs: Sequence[PlannedRun], repeats: Sequence[float] | None) -> list[str]:
    """The fitter's verdict on a table with these runs, whatever their losses will be."""
    # The targets: what shapes make of one size differs from sparsity to sparsity, and is no level of its own.
    # Seeds, methods and patterns teach it nothing about an axis: each point counts once.
    points = dict.fromkeys(
        (run.cell.sparsity, run.cell.nonzero_params, run.data, run.data / max(times, 1))
        for run, times in zip(runs, repeats or [1.0] * len(runs), strict=True)
    )
    columns = dict(
        zip(("sparsity", "nonzero_params", "data", "unique_data"), zip(*points, strict=True), strict=True)
    )
    verdict = gate({**columns, "loss": [1.0] * len(points)}, spec.law.form)
    return [f"the law cannot be identified: {reason}" for reason in verdict.missing] + [
        f"the law will be known poorly: {reason}" for reason in verdict.weak
    ]
