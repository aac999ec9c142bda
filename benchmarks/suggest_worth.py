"""What is choosing runs worth? A sweep's table is replayed under three orders of running it.

    python benchmarks/suggest_worth.py RUNS.csv [--tolerance 0.015] [--orders 40]

Runs are revealed one at a time, the law is refitted after each, and the cells not yet run are predicted. What
counts is the share of the whole sweep's FLOPs spent until every one of them is within the tolerance of its
measured loss, and the share from which on that stays so. (Cells that were run are known by measurement: no
fit of this law to all 48 T5 runs is within 1.5 % of each of them.)

* chosen: `fitter.suggestion.first_runs` until a fit is possible, then `suggest` one run at a time, for target
  "worst" (every cell counts) and for target "law" (their mean)
* smallest first: by cost, as sweeps are usually launched
* random: the median and quartiles of several orders
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

import fitter
from fitter.accounting import cost_multiplier
from fitter.identifiability import gate
from fitter.law import Law
from fitter.suggestion import Design, Target, first_runs
from fitter.table import Runs

Array = NDArray[np.float64]


def law_of(runs: Runs, order: Sequence[int]) -> Law | None:
    """The law of the runs done, None while they do not identify it."""
    done = runs.take(np.array(order, dtype=int))
    return fitter.fit(done, intervals=False, report=False) if gate(done).identified else None


def chosen(runs: Runs, accounting: str, target: Target) -> Iterator[int]:
    """The order that the fitter would have chosen."""
    cells = {name: getattr(runs, name) for name in ("sparsity", "nonzero_params", "data")}
    start = first_runs(cells, count=len(runs), target=target, accounting=accounting)
    order: list[int] = []
    while len(order) < len(runs):
        law = law_of(runs, order) if len(order) > 7 else None
        left = [i for i in start if i not in order]
        if law is None:
            pick = left[0]
        else:
            rest = runs.take(np.array(left))
            design = Design(law, runs.take(np.array(order)), rest.points(), accounting)
            best = design.choose(design.cells, target=target, flops=np.inf, limit=1).runs[0]
            same = (
                np.isclose(rest.sparsity, best.sparsity)
                & np.isclose(rest.nonzero_params, best.nonzero_params)
                & np.isclose(rest.data, best.data)
            )
            pick = left[int(np.argmax(same))]
        order.append(pick)
        yield pick


def shares_needed(
    runs: Runs, order: Sequence[int], cost: Array, tolerance: float
) -> tuple[float, float, int]:
    """Share of FLOPs until all cells left are predicted within the tolerance; until that stays so; and runs."""
    within = np.zeros(len(order) + 1, bool)
    within[-1] = True
    for count in range(8, len(order)):
        law = law_of(runs, order[:count])
        if law is None:
            continue
        rest = runs.take(np.array(order[count:], dtype=int))
        error = law.loss(rest.sparsity, rest.nonzero_params, rest.data) / rest.loss - 1.0
        within[count] = bool(np.abs(error).max() <= tolerance)
    first = int(np.flatnonzero(within).min())
    lasting = int(np.flatnonzero(~within).max()) + 1
    spent = np.concatenate([[0.0], np.cumsum(cost[list(order)])]) / cost.sum()
    return float(spent[first]), float(spent[lasting]), first


def main() -> None:
    parser = argparse.ArgumentParser(description="What is choosing runs worth?")
    parser.add_argument("table")
    parser.add_argument("--tolerance", type=float, default=0.015)
    parser.add_argument("--orders", type=int, default=40)
    options = parser.parse_args()
    runs = fitter.table.check(fitter.table.read(options.table))
    print("| FLOPs counted | order | FLOPs until predicted | runs until then | FLOPs until it stays so |")
    print("|---|---|---|---|---|")
    for accounting in ("dense", "sparse"):
        cost = runs.flops(cost_multiplier(runs.sparsity, accounting))
        orders = {
            "chosen, target worst": list(chosen(runs, accounting, "worst")),
            "chosen, target law": list(chosen(runs, accounting, "law")),
            "smallest first": np.argsort(cost, kind="stable").tolist(),
        }
        for name, order in orders.items():
            first, lasting, count = shares_needed(runs, order, cost, options.tolerance)
            print(f"| {accounting} | {name} | {first:.1%} | {count} | {lasting:.1%} |", flush=True)
        random = np.random.default_rng(0)
        found = [
            shares_needed(runs, random.permutation(len(runs)).tolist(), cost, options.tolerance)
            for _ in range(options.orders)
        ]
        low, middle, high = np.quantile([first for first, _, _ in found], [0.25, 0.5, 0.75])
        count = int(np.median([count for _, _, count in found]))
        lasting = float(np.median([stays for _, stays, _ in found]))
        quartiles = f"{middle:.1%} (quartiles {low:.1%}, {high:.1%})"
        print(
            f"| {accounting} | random, {options.orders} orders | {quartiles} | {count} | {lasting:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
