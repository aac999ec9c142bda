"""A fitted law: one immutable value that answers questions and round-trips through JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitter.accounting import Accounting, GradualPruning
from fitter.errors import DocumentError, SettingError
from fitter.forms import Form, Points, get_form
from fitter.intervals import Interval, bounds

if TYPE_CHECKING:
    from fitter.contours import Contours
    from fitter.optimum import Optimum

Array = NDArray[np.float64]

_REQUIRED = ("form", "coefficients", "objective", "runs", "intervals", "diagnostics", "gain", "data_digest")


@dataclass(frozen=True)
class Prediction:
    """Predicted losses, all arrays of the shape of the question.

    Args:
        loss: prediction of the fitted law.
        low, high: interval of the mean (what the law is uncertain about). NaN without draws.
        new_run_low, new_run_high: interval of one further run, its own scatter included. NaN where not asked for.
        level: probability of the intervals.
    """

    loss: Array
    low: Array
    high: Array
    new_run_low: Array
    new_run_high: Array
    level: float


@dataclass(frozen=True)
class Estimate:
    """A derived quantity with its interval; arrays of the shape of the question. NaN: undefined there."""

    value: Array
    low: Array
    high: Array
    level: float


@dataclass(frozen=True, eq=False)
class Law:
    """A fitted scaling law.

    Args:
        form: name of the law form (`fitter.forms.REGISTRY`).
        coefficients: raw coefficients by name.
        objective: weighted mean Huber loss at the coefficients.
        runs: number of runs fitted.
        intervals: coefficient name -> {low, high, level, identified}.
        diagnostics: the trust report (see docs/fitting.md).
        gain: sparsity as text -> {value, low, high}, dense-equivalent size multipliers.
        data_digest: SHA-256 of the runs.
        settings: everything that was chosen for the fit.
        definitions: what N, D and loss mean, and the unit of each coefficient.
        software: versions that produced it.
        draws: [B, p] bootstrap draws of the coefficients, in the order of `coefficients`.
        noise: [q] quantiles of the scatter of one run about the law, in units of the residual.
    """

    form: str
    coefficients: Mapping[str, float]
    objective: float
    runs: int
    intervals: Mapping[str, Interval]
    diagnostics: Mapping[str, Any]
    gain: Mapping[str, Any]
    data_digest: str
    settings: Mapping[str, Any]
    definitions: Mapping[str, Any]
    software: Mapping[str, str]
    draws: Array = field(repr=False)
    noise: Array = field(repr=False)

    def __post_init__(self) -> None:
        for name in (
            "coefficients",
            "intervals",
            "diagnostics",
            "gain",
            "settings",
            "definitions",
            "software",
        ):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for name in ("draws", "noise"):
            array = np.array(getattr(self, name), dtype=float)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Law) and self.document() == other.document()

    def __hash__(self) -> int:
        return hash((self.form, self.data_digest, tuple(self.coefficients.items())))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Law.from_document, (self.document(),))

    @classmethod
    def known(cls, coefficients: Mapping[str, float], form: str = "sparsity", **settings: Any) -> Law:
        """A law of which only the coefficients are known, such as a published one: no draws, no intervals.

        Raises:
            SettingError: unknown form, or coefficients that do not fit it.
        """
        law_form = get_form(form)
        if set(coefficients) != set(law_form.names):
            raise SettingError(f"law '{form}' has coefficients {', '.join(law_form.names)}")
        raw = np.array([float(coefficients[name]) for name in law_form.names])
        at = np.array([0.5, 0.75, 0.875])
        gain = law_form.gain(raw, at)
        return cls(
            form=form,
            coefficients=dict(zip(law_form.names, raw.tolist(), strict=True)),
            objective=float("nan"),
            runs=0,
            intervals={},
            diagnostics={},
            gain={}
            if gain is None
            else {
                f"{s:g}": {"value": float(g), "low": None, "high": None}
                for s, g in zip(at, gain, strict=True)
            },
            data_digest="",
            settings={"form": form, "residual": "log", "huber_delta": 1e-3, **settings},
            definitions={"formula": law_form.formula, "source": law_form.source},
            software={},
            draws=np.empty((0, len(law_form.names))),
            noise=np.empty(0),
        )

    # ---- as a document --------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """A JSON-ready document that `from_document` turns back into an equal law."""
        return {
            "form": self.form,
            "coefficients": dict(self.coefficients),
            "objective": self.objective if np.isfinite(self.objective) else None,
            "runs": self.runs,
            "intervals": {name: dict(interval) for name, interval in self.intervals.items()},
            "diagnostics": dict(self.diagnostics),
            "gain": {name: dict(value) for name, value in self.gain.items()},
            "data_digest": self.data_digest,
            "settings": dict(self.settings),
            "definitions": dict(self.definitions),
            "software": dict(self.software),
            "draws": {"names": list(self.coefficients), "values": self.draws.tolist()},
            "noise": self.noise.tolist(),
        }

    def to_json(self, indent: int | None = None) -> str:
        """The document as JSON text, numbers at full precision."""
        return json.dumps(self.document(), indent=indent, allow_nan=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Law:
        """The law of a document. Documents without draws give a law without intervals on what it derives.

        Raises:
            DocumentError: keys missing, an unknown form, or coefficients that do not fit the form.
        """
        missing = [key for key in _REQUIRED if key not in document]
        if missing:
            raise DocumentError(f"this is no law document: it lacks {', '.join(missing)}")
        try:
            names = get_form(document["form"]).names
        except SettingError as error:
            raise DocumentError(str(error)) from error
        if set(document["coefficients"]) != set(names):
            raise DocumentError(
                f"law '{document['form']}' has coefficients {', '.join(names)}; "
                f"the document has {', '.join(document['coefficients'])}"
            )
        draws = document.get("draws") or {"names": list(names), "values": []}
        values = np.asarray(draws["values"], dtype=float).reshape(-1, len(names))
        return cls(
            form=document["form"],
            coefficients={name: float(document["coefficients"][name]) for name in names},
            objective=float("nan") if document["objective"] is None else float(document["objective"]),
            runs=int(document["runs"]),
            intervals=document["intervals"],
            diagnostics=document["diagnostics"],
            gain=document["gain"],
            data_digest=document["data_digest"],
            settings=document.get("settings", {}),
            definitions=document.get("definitions", {}),
            software=document.get("software", {}),
            draws=values[:, [draws["names"].index(name) for name in names]],
            noise=np.asarray(document.get("noise", []), dtype=float),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Law:
        """The law of JSON text; see `from_document`."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise DocumentError(f"a law document is JSON: {error}") from error
        if not isinstance(document, dict):
            raise DocumentError(f"a law document is a JSON object, not {type(document).__name__}")
        return cls.from_document(document)

    def save(self, path: str | Path) -> None:
        """Write the document to a file."""
        Path(path).write_text(self.to_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Law:
        """Read a document from a file."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    # ---- what it says ---------------------------------------------------------------------------

    @cached_property
    def law_form(self) -> Form:
        """The form object, with the pruning schedule of the fit."""
        schedule = self.settings.get("schedule")
        return get_form(self.form, GradualPruning(**schedule)) if schedule else get_form(self.form)

    @cached_property
    def raw(self) -> Array:
        """[p] coefficients in the form's order."""
        return np.array([self.coefficients[name] for name in self.law_form.names])

    @property
    def level(self) -> float:
        """The level of the stored intervals."""
        return float(self.settings.get("level", 0.9))

    def loss(
        self,
        sparsity: ArrayLike,
        nonzero_params: ArrayLike,
        data: ArrayLike,
        *,
        unique_data: ArrayLike | None = None,
    ) -> Array:
        """Loss as `predict` has it, without the intervals, which take a thousand times as long.

        Raises:
            SettingError: sparsity outside [0, 1), N or D not positive.
        """
        points, shape = questions(sparsity, nonzero_params, data, unique_data)
        return self.law_form.evaluate(self.raw, points).reshape(shape)

    def predict(
        self,
        sparsity: ArrayLike,
        nonzero_params: ArrayLike,
        data: ArrayLike,
        *,
        unique_data: ArrayLike | None = None,
        level: float | None = None,
        new_run: bool = True,
    ) -> Prediction:
        """Loss at sparsity S, N non-zero parameters and D tokens or images; arguments broadcast.

        Args:
            new_run: whether the interval of one further run is wanted too, which takes most of the time; NaN without.

        Raises:
            SettingError: sparsity outside [0, 1), N or D not positive.
        """
        level = self.level if level is None else level
        points, shape = questions(sparsity, nonzero_params, data, unique_data)
        form = self.law_form
        loss = form.evaluate(self.raw, points)
        if self.draws.shape[0] == 0:
            gone = np.full(shape, np.nan)
            return Prediction(loss.reshape(shape), gone, gone, gone, gone, level)
        low, high, new_low, new_high = (np.full(loss.size, np.nan) for _ in range(4))
        log = self.settings.get("residual", "log") == "log"
        for part in np.array_split(np.arange(loss.size), 1 + loss.size // 256):
            mean = form.evaluate(self.draws, Points(*(getattr(points, f)[part] for f in _POINT_FIELDS)))
            low[part], high[part] = bounds(mean, level)
            if not new_run:
                continue
            # residual = predicted - measured, so a run lies at predicted - residual
            scatter = self.noise[:, None, None]
            runs = mean * np.exp(-scatter) if log else mean - scatter
            new_low[part], new_high[part] = bounds(runs.reshape(-1, part.size), level)
        return Prediction(
            loss=loss.reshape(shape),
            low=low.reshape(shape),
            high=high.reshape(shape),
            new_run_low=new_low.reshape(shape),
            new_run_high=new_high.reshape(shape),
            level=level,
        )

    def gain_at(self, sparsity: ArrayLike, *, level: float | None = None) -> Estimate:
        """Dense-equivalent size multiplier (paper, equation 5): how much larger a dense model would be.

        Raises:
            SettingError: the form has no gain, or sparsity outside [0, 1).
        """
        level = self.level if level is None else level
        at = np.asarray(sparsity, dtype=float)
        if np.any(~((at >= 0) & (at < 1))):
            raise SettingError("sparsity must lie in [0, 1)")
        value = self.law_form.gain(self.raw, at.ravel())
        if value is None:
            raise SettingError(f"law '{self.form}' does not depend on sparsity, so it has no gain")
        draws = self.law_form.gain(self.draws, at.ravel())
        assert draws is not None
        low, high = bounds(draws, level)
        return Estimate(value.reshape(at.shape), low.reshape(at.shape), high.reshape(at.shape), level)

    def optimum(
        self,
        nonzero_params: ArrayLike,
        flops: ArrayLike,
        accounting: Accounting = "dense",
        *,
        level: float | None = None,
    ) -> Optimum:
        """Optimal sparsity of a model with N non-zero parameters and a training budget of C FLOPs."""
        from fitter.optimum import optimum

        return optimum(self, nonzero_params, flops, accounting, level=level)

    def contours(
        self,
        sparsities: ArrayLike = (0.0, 0.5, 0.75, 0.875),
        nonzero_params: ArrayLike | None = None,
        accounting: Accounting = "dense",
        *,
        level: float | None = None,
    ) -> Contours:
        """Lines in the (N, C) plane along which each sparsity is optimal, and the dense-optimal line."""
        from fitter.contours import contours

        return contours(self, sparsities, nonzero_params, accounting, level=level)


_POINT_FIELDS = ("sparsity", "nonzero_params", "data", "unique_data")


def questions(
    sparsity: ArrayLike, nonzero_params: ArrayLike, data: ArrayLike, unique_data: ArrayLike | None = None
) -> tuple[Points, tuple[int, ...]]:
    """Flat points of broadcast arguments, and their common shape.

    Raises:
        SettingError: sparsity outside [0, 1), N or D not positive.
    """
    unique = data if unique_data is None else unique_data
    s, n, d, u = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (sparsity, nonzero_params, data, unique))
    )
    if np.any(~((s >= 0) & (s < 1))):
        raise SettingError("sparsity must lie in [0, 1): it is the fraction of zero weights")
    for name, column in (("nonzero_params", n), ("data", d), ("unique_data", u)):
        if np.any(~(np.isfinite(column) & (column > 0))):
            raise SettingError(f"{name} must be positive and finite")
    return Points(s.ravel(), n.ravel(), d.ravel(), u.ravel()), s.shape
