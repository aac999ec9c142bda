"""Bearer tokens: who may read, who may write, and until when. Only hashes are stored.

A token is `lac_<id>_<secret>`. The id finds the row; the secret, 32 random bytes, is compared by its SHA-256 in
constant time (a slow hash guards guessable passwords; these cannot be guessed). `LACUNA_API_TOKEN` is the operator's
own token and may do everything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Engine, func, insert, select, update

from ledger.models import ApiToken
from ledger.settings import Settings

Scope = Literal["read", "write"]
ALL_SCOPES: tuple[Scope, ...] = ("read", "write")
REMEMBERED_SECONDS = 5.0
"""A verified token is believed so long before the ledger is asked again: revoking takes that long to reach all."""
MOST_REMEMBERED = 1000

_TABLE = ApiToken.__table__


class TokenError(ValueError):
    """A token that cannot be made or revoked, with what would be right."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is known of a token; never its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def valid(self) -> bool:
        """Whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > datetime.now(UTC))


def create(
    engine: Engine, name: str, scopes: Sequence[Scope] = ("read",), expires_at: datetime | None = None
) -> str:
    """Make a token; its text, which is shown once and stored nowhere.

    Raises TokenError on an empty name, an unknown scope or an end that has passed.
    """
    if not name.strip():
        raise TokenError("a token needs a name, so that you know later whom to revoke")
    unknown = sorted(set(scopes) - set(ALL_SCOPES))
    if unknown or not scopes:
        raise TokenError(f"scopes are read and write, not {', '.join(unknown) or 'none'}")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise TokenError(f"the token would have expired at {expires_at.isoformat()} already")
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with engine.begin() as connection:
        connection.execute(
            insert(ApiToken).values(
                id=identity,
                digest=_digest(secret),
                name=name.strip(),
                scopes=" ".join(scopes),
                expires_at=expires_at,
            )
        )
    return f"lac_{identity}_{secret}"


def list_(engine: Engine) -> list[Token]:
    """All tokens, newest first."""
    with engine.connect() as connection:
        rows = connection.execute(select(_TABLE).order_by(_TABLE.c.created_at.desc())).mappings()
        return [_token(row) for row in rows]


def revoke(engine: Engine, identity: str) -> None:
    """Make a token open nothing any more. Raises TokenError where there is none of that id."""
    with engine.begin() as connection:
        statement = update(ApiToken).where(_TABLE.c.id == identity, _TABLE.c.revoked_at.is_(None))
        if connection.execute(statement.values(revoked_at=func.now())).rowcount == 0:
            raise TokenError(f"no valid token has the id '{identity}'; `lacuna token list` shows them")


class Doorkeeper:
    """Says what a presented token may do."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._engine = engine
        self._operator = _digest(settings.api_token) if settings.api_token else None
        self._remembered: dict[str, tuple[float, frozenset[Scope]]] = {}

    def scopes(self, presented: str) -> frozenset[Scope]:
        """The scopes of a token's text; empty for one that is unknown, expired or revoked."""
        digest = _digest(presented)
        if self._operator is not None and hmac.compare_digest(digest, self._operator):
            return frozenset(ALL_SCOPES)
        at, known = self._remembered.get(digest, (0.0, frozenset[Scope]()))
        if time.monotonic() - at < REMEMBERED_SECONDS and at:
            return known
        found = self._look_up(presented)
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        if found:  # guesses are not remembered, so that they cannot push out what is
            self._remembered[digest] = (time.monotonic(), found)
        return found

    def _look_up(self, presented: str) -> frozenset[Scope]:
        kind, _, rest = presented.partition("_")
        identity, _, secret = rest.partition("_")
        if kind != "lac" or not secret or not identity.isalnum():
            return frozenset()
        with self._engine.connect() as connection:
            row = connection.execute(select(_TABLE).where(_TABLE.c.id == identity)).mappings().one_or_none()
        # Compared even where there is no such id, so that time does not tell which ids exist.
        stored = row["digest"] if row is not None else "0" * 64
        same = hmac.compare_digest(_digest(secret), stored)
        if row is None or not same:
            return frozenset()
        token = _token(row)
        return frozenset(token.scopes) if token.valid else frozenset()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _token(row: object) -> Token:
    fields = dict(row)  # type: ignore[call-overload]
    fields.pop("digest")
    return Token(**{**fields, "scopes": tuple(fields["scopes"].split())})
