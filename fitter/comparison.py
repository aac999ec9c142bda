"""Which law form? By error on held-out runs first, by AICc second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitter.errors import NotIdentifiedError
from fitter.fitting import fit
from fitter.forms import REGISTRY
from fitter.identifiability import gate
from fitter.law import Law
from fitter.rollout import AXES, RollOut, roll_out
from fitter.table import check

# Forms are ranked by their predictions; hit rates only illustrate, and need fewer draws than a report does.
_DRAWS = 100


@dataclass(frozen=True)
class Contender:
    """One law form on one table.

    Args:
        form: its name.
        law: fitted on all runs, without intervals.
        parameters: free coefficients.
        aicc: corrected Akaike criterion under the Huber likelihood; only differences mean something.
        roll_outs: by axis, those that the table allows.
        held_out: root mean square over the axes of the roll-outs' log RMSE; nan without roll-outs.
    """

    form: str
    law: Law
    parameters: int
    aicc: float
    roll_outs: dict[str, RollOut]
    held_out: float


@dataclass(frozen=True)
class Comparison:
    """Law forms, best first (by `held_out`, then by AICc).

    Args:
        contenders: the forms that could be fitted.
        left_out: form -> why it could not.
        axes: roll-out axes that all contenders were judged by.
    """

    contenders: tuple[Contender, ...]
    left_out: dict[str, str]
    axes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """JSON-ready form."""
        best = min((c.aicc for c in self.contenders), default=math.nan)
        return {
            "axes": list(self.axes),
            "forms": [
                {
                    "form": c.form,
                    "parameters": c.parameters,
                    "objective": c.law.objective,
                    "rms_residual": c.law.diagnostics["rms_residual"],
                    "held_out": None if math.isnan(c.held_out) else c.held_out,
                    "delta_aicc": c.aicc - best,
                    "coefficients": dict(c.law.coefficients),
                    "roll_outs": {axis: result.document() for axis, result in c.roll_outs.items()},
                }
                for c in self.contenders
            ],
            "left_out": dict(self.left_out),
        }


def compare(
    table: Any, *, forms: Sequence[str] | None = None, axes: Sequence[str] = AXES, **settings: Any
) -> Comparison:
    """Fit every form that the table allows and rank them by held-out error and AICc.

    Args:
        table: as for `fit`.
        forms: names; default all forms that need no base law. Forms that the table cannot identify are
            listed as left out.
        axes: which roll-outs to judge by; those that leave too few runs for any form are skipped for all,
            so that all forms answer the same questions.
        settings: as for `fit`.

    Raises:
        NotIdentifiedError: no form can be fitted.
    """
    runs = check(table)
    names = [name for name, form in REGISTRY.items() if not form.inherits] if forms is None else list(forms)
    verdicts = {name: gate(runs, name) for name in names}
    left_out = {name: verdict.missing[0] for name, verdict in verdicts.items() if not verdict.identified}
    fitted = [name for name in names if name not in left_out]
    if not fitted:
        raise NotIdentifiedError(names[0], verdicts[names[0]].missing)
    results: dict[str, dict[str, RollOut]] = {name: {} for name in fitted}
    judged = []
    for axis in axes:
        try:
            found = {
                name: roll_out(runs, axis, form=name, **{"draws": _DRAWS, **settings}) for name in fitted
            }
        except NotIdentifiedError:
            continue
        judged.append(axis)
        for name, result in found.items():
            results[name][axis] = result
    contenders = []
    for name in fitted:
        law = fit(runs, form=name, **{**settings, "intervals": False, "report": False})
        errors = [result.log_rmse for result in results[name].values()]
        contenders.append(
            Contender(
                form=name,
                law=law,
                parameters=len(law.coefficients) - len(law.settings["pins"]) - len(law.settings["ties"]),
                aicc=aicc(law),
                roll_outs=results[name],
                held_out=float(np.sqrt(np.mean(np.square(errors)))) if errors else math.nan,
            )
        )
    contenders.sort(key=lambda c: (math.inf if math.isnan(c.held_out) else c.held_out, c.aicc))
    return Comparison(tuple(contenders), left_out, tuple(judged))


def aicc(law: Law) -> float:
    """AICc of a fit under the density exp(−ρ(r) / τ) / Z(τ), τ at its maximum likelihood.

    Normal for wide δ and Laplace for narrow δ, so that it judges a form by the objective it was fitted with.
    """
    delta = float(law.settings["huber_delta"])
    count = law.runs
    total = law.objective * count
    parameters = len(law.coefficients) - len(law.settings["pins"]) - len(law.settings["ties"]) + 1

    def negative_log_likelihood(log_tau: float) -> float:
        tau = math.exp(log_tau)
        z = math.sqrt(2 * math.pi * tau) * math.erf(delta / math.sqrt(2 * tau))
        z += 2 * tau / delta * math.exp(-(delta**2) / (2 * tau))
        return count * math.log(z) + total / tau

    # one minimum in log τ: golden-section search over a bracket that holds both regimes
    floor = max(law.objective, 1e-30)
    low, high = math.log(floor) - 3.0, math.log(floor) + 6.0
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(first) < negative_log_likelihood(second):
            high = second
        else:
            low = first
    fit_term = 2 * negative_log_likelihood(0.5 * (low + high)) + 2 * parameters
    spare = count - parameters - 1
    return fit_term + (2 * parameters * (parameters + 1) / spare if spare > 0 else math.inf)
