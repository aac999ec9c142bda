"""The REST service and its page: what the ledger knows, and what the law answers, over HTTP.

`create_app` builds the application. Nothing here trains or plans: submitting a sweep is a function that whoever
starts the service passes in (`submission.Submit`), so that this process holds neither torch nor Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitter.service.submission import Submit, SubmitError, SubmitResult

if TYPE_CHECKING:
    from fitter.service.app import create_app

__all__ = ["Submit", "SubmitError", "SubmitResult", "create_app"]


def __getattr__(name: str) -> Any:
    # FastAPI is for those who serve: a client needs the schemas only.
    if name == "create_app":
        from fitter.service.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
