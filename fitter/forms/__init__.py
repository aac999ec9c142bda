"""Law forms. A new one is one file here and one line in the registry below."""

from __future__ import annotations

from fitter.accounting import PAPER_SCHEDULE, Schedule
from fitter.errors import SettingError
from fitter.forms.average_params import AverageParams
from fitter.forms.chinchilla import Chinchilla
from fitter.forms.data_constrained import DataConstrained
from fitter.forms.form import Form, Parameter, Points, Scales
from fitter.forms.sparsity import Sparsity
from fitter.forms.sparsity_transfer import SparsityTransfer

REGISTRY: dict[str, type[Form]] = {
    form.name: form
    for form in (
        Sparsity,
        SparsityTransfer,
        Chinchilla,
        AverageParams,
        DataConstrained,
    )
}


def get_form(name: str, schedule: Schedule = PAPER_SCHEDULE) -> Form:
    """The law form of that name.

    Raises:
        SettingError: no such form.
    """
    if name not in REGISTRY:
        raise SettingError(f"law form '{name}' is unknown; known are {', '.join(REGISTRY)}")
    return REGISTRY[name](schedule)


__all__ = ["REGISTRY", "Form", "Parameter", "Points", "Scales", "get_form"]
