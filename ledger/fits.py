"""Fits: the versions of a sweep's law, each with the digest of the runs it used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import channels
from ledger.models import Fit, Sweep


def add(
    session: Session, sweep_id: int, *, form: str, document: Mapping[str, Any], runs_digest: str, runs: int
) -> Fit:
    """Store the next version. The newest version with the same runs and document's objective is not repeated:
    ask `latest` first."""
    sweep = session.get_one(Sweep, sweep_id, with_for_update=True)
    last = session.scalar(select(func.max(Fit.version)).where(Fit.sweep_id == sweep_id))
    fit = Fit(
        sweep_id=sweep_id,
        version=(last or 0) + 1,
        form=form,
        document=dict(document),
        runs_digest=runs_digest,
        runs=runs,
    )
    session.add(fit)
    session.flush()
    channels.notify(session, channels.FITS, {"sweep": sweep.name, "version": fit.version})
    return fit


def latest(session: Session, sweep_id: int) -> Fit | None:
    """The newest version, if there is one."""
    return session.scalar(select(Fit).where(Fit.sweep_id == sweep_id).order_by(Fit.version.desc()).limit(1))


def history(session: Session, sweep_id: int) -> list[Fit]:
    """All versions, oldest first."""
    return list(session.scalars(select(Fit).where(Fit.sweep_id == sweep_id).order_by(Fit.version)))
