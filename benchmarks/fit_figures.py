"""Draw the figures of docs/fitting.md from the paper's T5 runs.

python benchmarks/fit_figures.py RUNS.csv docs/figures
"""

from __future__ import annotations

import sys
from pathlib import Path

import fitter
from fitter import figures

PUBLISHED = {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651}


def main(table: str, folder: str) -> None:
    runs = fitter.table.check(fitter.table.read(table))
    law, out = fitter.fit(runs), Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    drawn = {
        "loss": figures.loss_against_params(law, runs),
        "predicted": figures.predicted_against_measured(
            law, runs, held_out=fitter.roll_out(runs, "nonzero_params")
        ),
        "contours": figures.sparsity_contours(law, accounting="sparse", table=runs),
        "gain": figures.gain_curve(law, others={"published fit": fitter.Law.known(PUBLISHED)}),
        "residuals": figures.residuals(law, runs),
        "profiles": figures.profiles(fitter.profiles(law, runs), law),
    }
    for name, figure in drawn.items():
        figures.save(figure, out / f"fit-{name}.svg")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/fit_figures.py RUNS.csv FOLDER")
    main(sys.argv[1], sys.argv[2])
