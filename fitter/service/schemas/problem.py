"""An answer that is an error."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ProblemDocument(BaseModel):
    """RFC 9457 problem document."""

    type: str = Field(
        description="Stable name of the kind of problem.", examples=["/docs/problems#unknown-sweep"]
    )
    title: str
    status: int
    detail: str = Field(description="What was wrong this time, and what would be right.")
    instance: str
    errors: list[dict[str, Any]] = Field(
        default_factory=list, description="Each thing that was wrong, and where."
    )
