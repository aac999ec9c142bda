"""The figures of a law beside the runs of its sweep: MLflow's artifacts, and `lacuna law --figures`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from fitter.law import Law


def figures(law: Law, table: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """(File name without ending, matplotlib figure) pairs that show a law beside completed runs.

    `table`: sparsity, nonzero_params, data, loss.
    """
    from fitter import figures as drawn

    yield "loss-against-params", drawn.loss_against_params(law, table)
    yield "predicted-against-measured", drawn.predicted_against_measured(law, table)
    yield "gain", drawn.gain_curve(law)
    yield "sparsity-contours", drawn.sparsity_contours(law, table=table)
    yield "residuals", drawn.residuals(law, table)
