"""Every kind of problem that the service answers with: what `type` in a problem document refers to."""

from __future__ import annotations

KINDS: dict[str, str] = {
    "address-too-long": "The address with its query is too long. Put long questions into the body of a POST.",
    "body-too-large": "The body is larger than what is read here.",
    "busy": "Other tables are being fitted. Try again after `Retry-After` seconds.",
    "cross-site-request": "A page of another site tried to write through your browser. Use the service's own page.",
    "defect": "The service failed; its log says where. Please report it.",
    "invalid-cursor": "A cursor is taken from `next_cursor` of the page before, as it is, for the same list.",
    "invalid-question": "The law cannot answer this: a number is out of range, or columns differ in length.",
    "invalid-request": "A parameter or the body does not fit the schema; `errors` says where.",
    "invalid-spec": "The sweep spec was refused, nothing was stored; `errors` has each problem with its path and line.",
    "invalid-table": "The runs table cannot be fitted or imported; `errors` names the rows.",
    "law-not-identified": "The runs of the table are too few or too alike for this law; `missing` says what helps.",
    "ledger-error": "The ledger refused a query. This is a defect; please report it.",
    "ledger-unavailable": "Postgres does not answer. Nothing was changed that had not been committed; try again.",
    "no-law-yet": "The completed runs do not identify the law yet; `missing` says which runs will.",
    "no-planner": "The service was started without a planner, so it takes no sweeps; `lacuna serve` has one.",
    "not-acceptable": "None of the formats in `Accept` is served at this address.",
    "not-found": "Nothing is served at this address. `/docs` lists all addresses.",
    "scope-needed": "The token is valid but may not do this.",
    "slow-body": "The body did not arrive in time.",
    "sweep-conflict": "A sweep of this name exists with another content. Choose another name.",
    "token-needed": "Send a valid token as `Authorization: Bearer TOKEN`, or log in on the page.",
    "too-many-requests": "Ask again after `Retry-After` seconds.",
    "too-many-streams": "Too many event streams are open. Close one, or poll `/progress`.",
    "unknown-group": "The sweep has no group of runs of that name. `groups` of the sweep lists them.",
    "unknown-sweep": "No sweep has this name. `GET /v1/sweeps` lists them.",
    "unknown-token": "The token is unknown, expired or revoked.",
    "unknown-version": "The law has no such version. `/law/history` lists them.",
    "unsupported-media-type": "The body's `Content-Type` is not read at this address.",
    "wrong-host": "Without a token the service answers to localhost and 127.0.0.1 only.",
    "wrong-state": "The sweep's state does not allow this change.",
}
"""Kinds beyond these are HTTP's own, such as `method-not-allowed`."""
