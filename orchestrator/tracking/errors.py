"""What tracking raises. Training never sees it: the mirror catches up when tracking is back."""

from __future__ import annotations


class TrackingError(RuntimeError):
    """The MLflow server or store cannot be used: which, why, and what to check, in one line."""
