"""Cursors: where the next page of a list begins, as an opaque word.

A cursor holds the last position that was sent, so that a list that grows while it is read repeats and skips nothing.
"""

from __future__ import annotations

import base64
import binascii

from fitter.service.problems import Problem, echo


def encode(kind: str, position: int) -> str:
    """The cursor of a list after `position`; `kind` names the list, so that cursors are not mixed up."""
    return base64.urlsafe_b64encode(f"{kind}:{position}".encode()).decode().rstrip("=")


def decode(kind: str, cursor: str | None) -> int | None:
    """The position in a cursor of this kind of list; None for the first page.

    Raises Problem (400) on anything that `encode` did not make for this list.
    """
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        found, _, position = text.partition(":")
        value = int(position)
    except (binascii.Error, ValueError):
        found, value = "", -1
    if found != kind or not 0 <= value < 2**63:
        raise Problem(
            400,
            "invalid-cursor",
            "The cursor was not made by this list",
            f"'{echo(cursor)}' is no cursor of this list: pass `next_cursor` of the page before as it is.",
        )
    return value
