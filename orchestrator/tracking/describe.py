"""What people read in MLflow: a sweep's note, a cell's parameters, the metrics of an end and of a law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fitter.law import Law
from fitter.numbers import short
from fitter.question import first_question
from ledger.models import Sweep
from ledger.points import Point

#: Cell column → the name of the parameter in MLflow.
PARAMETERS = {
    "sparsity": "S",
    "nonzero_params": "N",
    "data": "D",
    "pattern": "pattern",
    "method": "method",
    "seed": "seed",
    "dense_params": "dense_params",
    "steps": "steps",
    "family": "family",
    "batch_size": "batch_size",
    "sequence_length": "sequence_length",
}

#: Characters that MLflow takes in a tag of an experiment.
LONGEST_NOTE = 5000

#: Entry of a segment's result → the name of the final metric.
FINAL = {
    "nonzero_params": "final/nonzero_params",
    "sparsity_reached": "final/sparsity",
    "tokens": "final/tokens",
    "repeats": "final/repeats",
    "run_density": "final/average_density",
    "run_flops": "final/flops",
    "run_sparse_flops": "final/sparse_flops",
    "mask_ms": "final/mask_ms",
    "mask_bytes_per_weight": "final/mask_bytes_per_weight",
}


def description(sweep: Sweep, laws: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Markdown: the question, the answer so far, the grid. `laws`: the newest document of each group of runs.

    Its first line, which is all that MLflow shows before it is unfolded, has question and answer.
    """
    spec = sweep.spec
    grid = "\n".join(f"- **{name}**: {_values(values)}" for name, values in (spec.get("grid") or {}).items())
    data = spec.get("data") or {}
    known = f" on {data['source']}" if data.get("source") else ""
    question = f"How sparse should a {(spec.get('model') or {}).get('family', 'model')} be{known}?"
    first = next((said for law in (laws or {}).values() for said in _optima(law)), None)
    what = (
        "These runs were trained elsewhere; the sparsity scaling law L(S, N, D) is fitted to them."
        if spec.get("imported")
        else "This sweep trains every cell of the grid below and fits the sparsity scaling law L(S, N, D) whenever "
        "runs complete."
    )
    parts = [
        f"{question} {first[0].upper()}{first[1:]}." if first else f"{question} {what}",
        answer(laws or {}),
        *([what] if first else []),
        *([grid] if grid else []),
        "S: fraction of weights pruned. N: non-zero parameters. D: training data (tokens or images). "
        "Loss: validation loss, nats per target.",
        "Runs tagged `lacuna.kind = cell` are the cells: group and filter them by the tags `sparsity`, "
        "`nonzero_params`, `method`, `pattern` and `status`, and set the x-axis of a chart to the metric `tokens` to "
        "compare lengths and batch sizes. `lacuna.kind = fit` are versions of the law, with coefficients as metrics, "
        "plots and the law document as artifacts; `lacuna.kind = law` has the coefficients over the versions. A "
        "cell's history includes the trunk it shares with others, which was trained once; `segments` names it.",
    ]
    return "\n\n".join(parts)[:LONGEST_NOTE]


#: What the links to MLflow open of a sweep's experiment: its cells, best first, with what tells them apart. In the form
#: of MLflow's own shared views.
VIEW = {
    "searchFilter": "tags.`lacuna.kind` = 'cell'",
    "orderByKey": "metrics.`final/loss`",
    "orderByAsc": True,
    "selectedColumns": [
        "metrics.`final/loss`",
        *(f"params.`{name}`" for name in ("N", "S", "D", "method", "pattern", "seed")),
        "tags.`status`",
    ],
}


def answer(laws: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: how sparse the sweep's own models should be, as far as its laws know."""
    if not laws:
        return "**The answer so far**: none; the law is fitted as soon as the completed runs identify it."
    return "\n\n".join(_answer(group, law) for group, law in laws.items())


def _answer(group: str, law: Mapping[str, Any]) -> str:
    of = f" for {group}" if group else ""
    lines = [f"**The answer so far{of}** (law from {law['runs']} runs, form `{law['form']}`):"]
    lines += [f"- {sentence}" for sentence in _optima(law)]
    for sparsity, gain in (law.get("gain") or {}).items():
        if gain.get("value") is not None:
            bounded = gain.get("low") is not None and gain.get("high") is not None
            ends = f" ({gain['low']:.3g} to {gain['high']:.3g})" if bounded else ""
            lines.append(
                f"- at {100 * float(sparsity):g} % a model is worth a dense one {gain['value']:.3g}{ends} "
                "times as large"
            )
    return "\n".join(lines)


def _optima(document: Mapping[str, Any]) -> list[str]:
    """The answer to the question that the page asks first; none where the law does not say what it was fitted to."""
    if not document.get("gain") or not (document.get("diagnostics") or {}).get("ranges"):
        return []
    law = Law.from_document(document)
    size, budget = first_question(law)
    best = law.optimum(size, budget)
    low, high = float(best.low), float(best.high)
    bounded = math.isfinite(low) and math.isfinite(high)
    ends = f" ({100 * best.level:g} % interval {100 * low:.3g} to {100 * high:.3g} %)" if bounded else ""
    flops = f"{budget:.3g}".replace("e+", "e")
    sparsity = 100 * float(best.sparsity)
    advice = f"make it {sparsity:.3g} % sparse" if sparsity >= 0.5 else "train a dense model"
    beyond = ", which lies outside what was trained" if best.extrapolates else ""
    return [f"with {short(size, ' ')} non-zero parameters and {flops} FLOPs {advice}{ends}{beyond}"]


def tags(cell: Mapping[str, Any], path: Sequence[str]) -> dict[str, str]:
    """What people group and filter a sweep's runs by. `path`: keys of the run's segments, trunk first."""
    named = {
        name: _number(cell[name])
        for name in ("sparsity", "nonzero_params", "method", "pattern", "family", "seed")
        if cell.get(name) is not None
    }
    return named | ({"segments": " ".join(key[:12] for key in path)} if path else {})


def with_tokens(history: Sequence[Point], cell: Mapping[str, Any]) -> list[Point]:
    """A run's points with a metric `tokens` at every step: an axis on which runs of any batch size compare."""
    if not cell.get("steps") or not cell.get("data"):
        return list(history)
    per_step = float(cell["data"]) / float(cell["steps"])
    found: list[Point] = []
    for point in history:
        if not found or found[-1].step != point.step:
            found.append(Point(point.step, "tokens", point.step * per_step, point.milliseconds))
        found.append(point)
    return found


def parameters(cell: Mapping[str, Any]) -> dict[str, str]:
    """A cell as MLflow parameters: numbers as short as they are exact."""
    return {
        name: _number(cell[column]) for column, name in PARAMETERS.items() if cell.get(column) is not None
    }


def final_metrics(loss: float, result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a run that completed."""
    return {"final/loss": loss} | {
        name: float(result[entry]) for entry, name in FINAL.items() if result.get(entry) is not None
    }


def law_metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """Coefficients, their intervals (`a_S/low`, `a_S/high`), gains and diagnostics of a law document."""
    metrics = {name: float(value) for name, value in document["coefficients"].items()}
    for name, interval in (document.get("intervals") or {}).items():
        metrics |= {f"{name}/{end}": interval[end] for end in ("low", "high") if _finite(interval.get(end))}
    for sparsity, gain in (document.get("gain") or {}).items():
        value = gain.get("gain", gain.get("value")) if isinstance(gain, Mapping) else gain
        if _finite(value):
            metrics[f"gain/{sparsity}"] = value
    if _finite(document.get("objective")):
        metrics["objective"] = document["objective"]
    for name, value in (document.get("diagnostics") or {}).items():
        if _finite(value):
            metrics[f"diagnostics/{name}"] = float(value)
    return metrics


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _values(values: Any) -> str:
    return ", ".join(map(_number, values)) if isinstance(values, list) else _number(values)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)
