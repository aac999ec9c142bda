"""Adaptive sweeps: of the grid's cells, those that teach the law most per FLOP are trained, one after the other.

Whoever leads asks again whenever few runs are open. All that it goes by stands in the ledger: the runs chosen so far,
how they ended, the newest law, which segments exist. So a restart goes on where it was, and nothing is chosen twice.
A cell's price is what it would add to the forest: on a trunk that is there already, a pruned run costs its branch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fitter.errors import FitError
from fitter.forms import Points
from fitter.law import Law
from fitter.suggestion import Design, rough_guess
from fitter.table import Runs
from ledger import fits, segments, sweeps
from ledger.errors import LedgerError
from ledger.models import Run, SegmentState, Sweep, SweepState
from ledger.settings import Settings
from orchestrator.at_hand import plan_of
from orchestrator.plan.plan import Plan
from orchestrator.plan.rows import run_rows, segment_rows
from orchestrator.pools import PoolError, Pools, declared
from orchestrator.spec.schema import ExecutionSpec, Spec
from trainer.errors import TrainerError

#: Seconds between two looks at what is open.
PERIOD_SECONDS = 1.0

#: Cells over which the law's uncertainty is averaged; of a larger grid an even sample.
MOST_CELLS = 400

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an adaptive sweep stands; part of the plan that the ledger keeps of it."""

    cells: int
    """Cells of the grid."""
    chosen: int
    flops: float
    """What the chosen ones cost together, dense accounting, segments that were there before left out."""
    budget_flops: float | None
    interval: float | None
    """Half the law's interval on the loss of the grid's cells, relative (root mean square); None: no law yet."""
    wanted_interval: float | None
    stopped: str | None
    """Why no more cells are chosen; None while more may be."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the ledger knows of a sweep: one entry for each run that was chosen."""

    names: Sequence[str]
    tips: Sequence[str | None]
    states: Sequence[SegmentState]
    law: Law | None
    free: frozenset[str]
    """Segments of the plan that were completed, and not for this sweep's sake: they cost nothing."""


class Adaptive:
    """Chooses for the sweeps of one ledger. Plans are remembered, as they take long for large grids."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._plans: dict[tuple[int, str], Plan] = {}

    def run(self, stopping: threading.Event) -> None:
        """Look after all active adaptive sweeps, again and again, until told to stop."""
        while not stopping.wait(PERIOD_SECONDS):
            try:
                self.look()
            except DBAPIError as error:
                log.warning("the ledger does not answer: %s", error.orig)

    def look(self) -> None:
        """Choose for every active adaptive sweep that needs it."""
        with Session(self._engine) as session:
            active = [
                sweep.name
                for sweep in sweeps.list_(session)
                if sweep.state is SweepState.active and undecided(sweep)
            ]
        for name in active:
            try:
                self.grow(name)
            except (LedgerError, PoolError, FitError, TrainerError, ValueError) as error:
                log.error("sweep %s cannot choose its next cells: %s", name, error)

    def grow(self, name: str) -> int:
        """Choose the sweep's next cells, if too few are open; how many were added. Raises LedgerError."""
        with Session(self._engine) as session:
            sweep = sweeps.get(session, name)
            if not undecided(sweep):
                return 0
            plan = self._plan(sweep)
            known = known_of(session, sweep, plan)
        before = sweep.plan.get("adaptive")
        chosen, standing = choose(plan, known, room(plan.spec.execution, declared(self._settings)))
        if not chosen and asdict(standing) == before:
            return 0
        with Session(self._engine) as session, session.begin():
            now = sweeps.get(session, name)
            session.refresh(now, with_for_update=True)
            if now.spec_digest != sweep.spec_digest or now.plan.get("adaptive") != before:
                return 0  # someone was faster: the next look sees what became of it
            document = {**now.plan, "adaptive": asdict(standing)}
            added = sweeps.extend(
                session,
                name,
                spec=now.spec,
                spec_text=now.spec_text,
                spec_digest=now.spec_digest,
                plan=document,
                segments=list(segment_rows(plan, str(now.plan["data_path"]))) if chosen else [],
                runs=list(run_rows(plan, chosen)),
            )
            sweeps.finish_if_over(session, [now.id])
        for run in (plan.runs[place] for place in chosen):
            log.info("sweep %s: chose %s", name, run.name)
        if standing.stopped:
            log.info("sweep %s: chooses no more cells: %s", name, standing.stopped)
        return added

    def _plan(self, sweep: Sweep) -> Plan:
        key = (sweep.id, sweep.spec_digest)
        if key not in self._plans:
            spec = Spec.model_validate(sweep.spec)
            self._plans[key] = plan_of(self._settings, spec, sweep)
        return self._plans[key]


def undecided(sweep: Sweep) -> bool:
    """Whether an adaptive sweep may still choose more cells."""
    if sweep.spec.get("execution", {}).get("strategy") != "adaptive":
        return False
    return (sweep.plan.get("adaptive") or {}).get("stopped") is None


def room(execution: ExecutionSpec, pools: Pools) -> int:
    """Runs that are kept open: one for every worker, and one that waits."""
    at_once = pools.get(execution.pool).runs(execution.device, execution.devices_per_run)
    return min(at_once, execution.max_concurrent or at_once) + 1


def known_of(session: Session, sweep: Sweep | None, plan: Plan) -> Known:
    """What the ledger knows of that sweep, or of one that it does not have yet."""
    rows: Sequence[Any] = []
    law = None
    if sweep is not None:
        rows = session.execute(select(Run.name, Run.tip_key, Run.state).where(Run.sweep_id == sweep.id)).all()
        newest = fits.latest(session, sweep.id)
        law = None if newest is None else Law.from_document(newest.document)
    keys = [segment.key for segment in plan.segments]
    before = None if sweep is None else sweep.created_at
    return Known(
        names=[row.name for row in rows],
        tips=[row.tip_key for row in rows],
        states=[row.state for row in rows],
        law=law,
        free=frozenset(segments.completed(session, keys, before=before)),
    )


def choose(plan: Plan, known: Known, open_wanted: int) -> tuple[list[int], Standing]:
    """Places in `plan.runs` of the cells to add, so that as many runs are open as wanted, and how it stands then.

    A cell counts as chosen by its name or its last segment, whichever the ledger knows.
    """
    execution = plan.spec.execution
    names, tips = set(known.names), set(known.tips)
    taken = [run.name in names or path[-1] in tips for run, path in zip(plan.runs, plan.paths, strict=True)]
    flops = {segment.key: segment.flops for segment in plan.segments}
    paid = set(known.free)
    spent = 0.0
    for path in (path for path, was in zip(plan.paths, taken, strict=True) if was):
        spent += sum(flops[key] for key in path if key not in paid)
        paid.update(path)
    points = _points(plan)
    state = dict(zip(known.names, known.states, strict=True))
    # Runs that failed or diverged taught nothing, and will not.
    teaches = np.array(
        [
            was and state.get(run.name) not in (SegmentState.failed, SegmentState.diverged)
            for run, was in zip(plan.runs, taken, strict=True)
        ]
    )
    interval = _interval(plan, known, points)
    ended = sum(state is not SegmentState.pending for state in known.states)
    open_runs = len(known.states) - ended
    chosen: list[int] = []
    stopped = None
    wanted = execution.wanted_interval
    if wanted is not None and interval is not None and interval <= wanted:
        stopped = f"the interval of ±{interval:.2%} is as narrow as wanted"
    while stopped is None and open_runs + len(chosen) < open_wanted:
        left = np.flatnonzero(~np.array(taken))
        if not left.size:
            stopped = "every cell of the grid was chosen"
            break
        cost = np.array([sum(flops[key] for key in plan.paths[place] if key not in paid) for place in left])
        purse = np.inf if execution.budget_flops is None else execution.budget_flops - spent
        best = _best(plan, known.law, points, teaches, left, cost, purse)
        if best is None:
            stopped = f"the budget of {execution.budget_flops:.4g} FLOPs has room for no further cell"
            break
        place = int(left[best])
        chosen.append(place)
        taken[place] = teaches[place] = True
        spent += float(cost[best])
        paid.update(plan.paths[place])
    return chosen, Standing(
        cells=len(plan.runs),
        chosen=len(known.names) + len(chosen),
        flops=spent,
        budget_flops=execution.budget_flops,
        interval=interval,
        wanted_interval=wanted,
        stopped=stopped,
    )


def _points(plan: Plan) -> Points:
    columns = [run.columns() for run in plan.runs]
    s, n, d = (
        np.array([cell[name] for cell in columns], float) for name in ("sparsity", "nonzero_params", "data")
    )
    return Points(s, n, d, d)


def _sample(points: Points) -> Points:
    step = max(1, -(-points.data.size // MOST_CELLS))
    return _take(points, np.arange(0, points.data.size, step))


def _take(points: Points, which: Any) -> Points:
    return Points(
        *(axis[which] for axis in (points.sparsity, points.nonzero_params, points.data, points.unique_data))
    )


def _as_runs(points: Points) -> Runs:
    """Runs of which only the place counts: what a run teaches does not depend on how it ends."""
    ones = np.ones(points.data.size)
    return Runs(points.sparsity, points.nonzero_params, points.data, ones, points.unique_data)


def _best(
    plan: Plan, law: Law | None, points: Points, teaches: Any, left: Any, cost: Any, purse: float
) -> int | None:
    """Place in `left` of the cell that teaches most per FLOP, given that all chosen ones will be done."""
    guess = law or rough_guess(points, plan.spec.law.form)
    candidates, sample = _take(points, left), _sample(points)
    both = Points(*(np.concatenate(pair) for pair in zip(_axes(candidates), _axes(sample), strict=True)))
    price = np.concatenate([cost, np.full(sample.data.size, np.inf)])
    design = Design(guess, _as_runs(_take(points, np.flatnonzero(teaches))), both, cost=price)
    return design.best(design.new[left.size :], min(purse, float(np.finfo(float).max)))


def _axes(points: Points) -> tuple[Any, Any, Any, Any]:
    return points.sparsity, points.nonzero_params, points.data, points.unique_data


def _interval(plan: Plan, known: Known, points: Points) -> float | None:
    """Half the law's interval on the loss of the grid's cells, by the runs that are done; None: there is no law yet."""
    if known.law is None:
        return None
    state = dict(zip(known.names, known.states, strict=True))
    done = np.array([state.get(run.name) is SegmentState.completed for run in plan.runs])
    sample = _sample(points)
    design = Design(known.law, _as_runs(_take(points, np.flatnonzero(done))), sample)
    return float(NormalDist().inv_cdf((1 + plan.spec.law.level) / 2) * design.deviation(design.new))
