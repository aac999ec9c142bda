"""Fits: the versions of a sweep's law, each with the digest of the runs it used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import channels
from ledger.models import Fit, Sweep


def add(
    session: Session,
    sweep_id: int,
    *,
    form: str,
    document: Mapping[str, Any],
    runs_digest: str,
    runs: int,
    group: str = "",
) -> Fit:
    """Store the next version. The newest version with the same runs and document's objective is not repeated:
    ask `latest` first. `group`: which of the sweep's runs it describes, where one law does not describe all."""
    sweep = session.get_one(Sweep, sweep_id, with_for_update=True)
    last = session.scalar(select(func.max(Fit.version)).where(Fit.sweep_id == sweep_id))
    fit = Fit(
        sweep_id=sweep_id,
        version=(last or 0) + 1,
        group=group,
        form=form,
        document=dict(document),
        runs_digest=runs_digest,
        runs=runs,
    )
    session.add(fit)
    session.flush()
    channels.notify(session, channels.FITS, {"sweep": sweep.name, "version": fit.version})
    return fit


def latest(session: Session, sweep_id: int, group: str | None = None) -> Fit | None:
    """The newest version, of that group or of any, if there is one."""
    newest = select(Fit).where(Fit.sweep_id == sweep_id).order_by(Fit.version.desc()).limit(1)
    return session.scalar(newest if group is None else newest.where(Fit.group == group))


def history(session: Session, sweep_id: int) -> list[Fit]:
    """All versions, oldest first."""
    return list(session.scalars(select(Fit).where(Fit.sweep_id == sweep_id).order_by(Fit.version)))


def law_document(
    sweep: str, *, document: Mapping[str, Any], version: int, group: str, created_at: datetime
) -> dict[str, Any]:
    """A fit's document as it is given out: with its sweep, its version, and the group of runs that it describes."""
    about = {"sweep": sweep, "version": version, "created_at": created_at.isoformat()}
    return {**document, **about, **({"group": group} if group else {})}
