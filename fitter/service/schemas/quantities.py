"""Quantities with their units and bounds, and what every answer shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sparsity = Annotated[
    float, Field(description="Fraction of weights that are zero, in [0, 1).", examples=[0.75])
]
NonzeroParams = Annotated[
    float, Field(description="N, the number of non-zero parameters after pruning.", examples=[5.3e6])
]
Data = Annotated[
    float, Field(description="D, data seen in training, in tokens (or images).", examples=[1.6e10])
]
Loss = Annotated[
    float, Field(description="Validation loss, in nats per token (or per image).", examples=[2.71])
]
#: Beyond these no model was ever meant; they keep every answer finite.
LARGEST_MODEL, LARGEST_BUDGET, LARGEST_DATA = 1e18, 1e36, 1e24
SparsityQuestion = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
ParamsQuestion = Annotated[float, Field(ge=1, le=LARGEST_MODEL, allow_inf_nan=False)]
DataQuestion = Annotated[float, Field(ge=1, le=LARGEST_DATA, allow_inf_nan=False)]
FlopsQuestion = Annotated[float, Field(ge=1, le=LARGEST_BUDGET, allow_inf_nan=False)]
MOST_QUESTIONS = 10_000
MOST_OPTIMA = 500
Flops = Annotated[float, Field(description="Training compute, in FLOPs.", examples=[1e18])]


Accounting = Literal["dense", "sparse", "measured"]


class Answer(BaseModel):
    """Base of all answers: unknown members are a defect of the service."""

    model_config = ConfigDict(extra="forbid")


class Interval(Answer):
    """A central interval with its level; both ends are null where the runs cannot tell."""

    low: float | None
    high: float | None
    level: float = Field(description="Coverage that the interval is built for, such as 0.9.")
    identified: bool | None = Field(None, description="False where the runs do not bound the coefficient.")
