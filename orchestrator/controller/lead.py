"""Carry out sweeps: become the leader, fence off whoever led before, run Ray Tune over the ledger until all is done."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import FrameType

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fitter.refit import Refitter
from ledger import attempts, controllers, segments, sweeps
from ledger.engine import ledger_url, open_ledger
from ledger.models import SweepState
from ledger.progress import Progress, progress
from ledger.settings import Settings
from ledger.sweeps import Place
from orchestrator.adaptive import Adaptive
from orchestrator.controller.execution import carry_out
from orchestrator.controller.orders import Assignment
from orchestrator.controller.patience import Returned, patiently
from orchestrator.controller.placing import Placing
from orchestrator.controller.supervisor import Supervisor, revive
from orchestrator.pools import declared
from orchestrator.tracking.journal import replay
from orchestrator.tracking.lacking import behind
from orchestrator.tracking.process import mirroring

#: Seconds between two attempts to become the leader.
WAIT_SECONDS = 1.0

#: Looks at a leader in a row, WAIT_SECONDS apart, at which it gave no sign of life: its process was stopped, or hangs,
#: and holds the lock. Looks, not seconds: who looks may have been stopped with it.
SILENT_LOOKS = 60

#: Seconds after which what ended by an error is begun anew.
AFTER_ERROR_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a controller's work ended."""

    sweeps: list[Progress]
    interrupted: bool
    """By Ctrl-C, SIGTERM, or another controller: the next start goes on."""
    tracking_trouble: str | None = None
    """Why MLflow lacks something, in one line; the next start, or a long-lived controller, makes it up."""

    @property
    def ok(self) -> bool:
        """Whether every run of every sweep has a loss."""
        return not self.interrupted and all(sweep.completed == sweep.total for sweep in self.sweeps)


def run(
    settings: Settings,
    sweep_names: Sequence[str] | None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    max_concurrent: int | None = None,
    on_following: Callable[[controllers.Leader], None] | None = None,
) -> Outcome:
    """Carry out these sweeps until each is completed or cancelled; None: serve all sweeps until told to stop.

    Where another controller leads on this ledger, it is asked to serve these sweeps too, and this call follows until
    they are over; should that one end or die first, this one leads.

    `on_progress` is called about once a second for each sweep, from another thread; `on_following` whenever this call
    begins to follow another controller. At most `max_concurrent` workers of a pool, and never more than it has.
    The first SIGINT or SIGTERM lets the workers stop at a checkpoint; a second one ends at once.

    Raises LedgerError when the ledger does not answer or has no such sweep, PoolError when one of them names a pool
    that is not declared or not to be had.
    """
    engine = open_ledger(settings, pool_size=8)
    tracking = _Tracking()
    stopping, signalled = threading.Event(), threading.Event()
    try:
        with Session(engine) as session:
            ids = None if sweep_names is None else tuple(sweeps.get(session, name).id for name in sweep_names)
            over = sweep_names is not None and _all_over(session, sweep_names)
            placing = Placing(declared(settings), max_concurrent)
            places = sweeps.by_place(session, ids)
            for place in () if ids is None else places:
                placing.check(place)
        with _stop_on_signals(stopping, signalled), _log_file(settings):
            if over:
                _make_up(engine, settings, sweep_names or (), tracking)
            else:
                job = _Job(
                    engine=engine,
                    settings=settings,
                    leadership=controllers.Leadership(engine),
                    stopping=stopping,
                    sweep_ids=ids,
                    names=sweep_names,
                    cores=_cores(max_concurrent, places),
                    placing=placing,
                    on_progress=on_progress,
                )
                try:
                    _lead_or_follow(job, on_following, signalled, tracking)
                finally:
                    job.leadership.release()
        with Session(engine) as session:
            names = [sweep.name for sweep in sweeps.list_(session)] if sweep_names is None else sweep_names
            found = [progress(session, name) for name in names]
            over = sweep_names is not None and _all_over(session, sweep_names)
    finally:
        engine.dispose()
    return Outcome(found, interrupted=stopping.is_set() and not over, tracking_trouble=tracking.trouble)


def _cores(max_concurrent: int | None, places: Iterable[Place]) -> int:
    """Of a private Ray: enough for so many runs, and for one where several processes train it."""
    there = os.cpu_count() or 1
    if max_concurrent is None:
        return there
    return min(there, max_concurrent * max((place.devices for place in places), default=1))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One call of `run`."""

    engine: Engine
    settings: Settings
    leadership: controllers.Leadership
    stopping: threading.Event
    sweep_ids: tuple[int, ...] | None
    names: Sequence[str] | None
    cores: int
    placing: Placing
    on_progress: Callable[[Progress], None] | None

    def patiently(self, action: Callable[[], Returned]) -> Returned:
        """As `patience.patiently`, and start the embedded Postgres again, should it be that which died."""

        def attempt() -> Returned:
            try:
                return action()
            except DBAPIError:
                revive(self.settings)
                raise

        return patiently(attempt)

    def report(self, session: Session) -> None:
        """Tell the caller how far its sweeps are."""
        if self.on_progress is not None:
            for name in self.names if self.names is not None else _active(session):
                self.on_progress(progress(session, name))

    def watch(self, session: Session) -> None:
        """Stop once all that was asked for is over, although sweeps of others that it serves may not be."""
        if self.over(session):
            self.stopping.set()

    def over(self, session: Session) -> bool:
        """Whether all that was asked for is over."""
        return self.names is not None and _all_over(session, self.names)

    def demand(self) -> tuple[int, bool]:
        """How many segments are still wanted, and whether all that was asked for is over."""
        with Session(self.engine) as session:
            served = controllers.served(session, self.sweep_ids)
            return segments.demand(session, sweep_ids=served).open, self.over(session)


@dataclass
class _Tracking:
    """What the mirror said last."""

    trouble: str | None = None

    def hear(self, trouble: str | None) -> None:
        self.trouble = trouble
        if trouble is not None:
            log.warning("%s", trouble)


def _lead_or_follow(
    job: _Job,
    on_following: Callable[[controllers.Leader], None] | None,
    signalled: threading.Event,
    tracking: _Tracking,
) -> None:
    """Lead whenever nobody else does, until all that was asked for is over."""
    while _follow(job, on_following):
        with mirroring(job.settings, tracking.hear):
            deposed = _lead(job)
        if not deposed or signalled.is_set():
            return
        # Another one was faster after an outage.
        job.stopping.clear()
        if signalled.is_set():
            job.stopping.set()
    if not job.stopping.is_set():
        _refit(job.engine, job.names or ())


def _make_up(engine: Engine, settings: Settings, names: Sequence[str], tracking: _Tracking) -> None:
    """What is missing where every run has ended: killed before the last fit, perhaps, or before MLflow had it all."""
    _refit(engine, names)
    with Session(engine) as session:
        lacking = behind(session)
    if lacking:
        with mirroring(settings, tracking.hear):
            pass


def _refit(engine: Engine, names: Sequence[str]) -> None:
    for name in names:
        Refitter(engine).refit(name)


def _lead(job: _Job) -> bool:
    """Lead until all is over, or this one is told to stop; whether it was because another one leads."""
    controller = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with Session(job.engine) as session, session.begin():
        controllers.register(session, controller)
        fenced = attempts.fence_off(session, controller)
    log.info("controller %s leads; %d attempts of earlier ones fenced off", controller, fenced)
    assignment = Assignment(
        ledger_url=ledger_url(job.settings),
        storage=job.settings.storage,
        controller=controller,
        sweep_ids=job.sweep_ids,
        logs=job.settings.logs,
        home=job.settings.home,
    )
    # Of workers that were killed here with the last controller: there may be nothing left to do for a new one.
    job.patiently(lambda: replay(job.engine, assignment.journals))
    supervisor = Supervisor(
        job.engine,
        job.settings,
        job.leadership,
        controller,
        job.stopping,
        journals=assignment.journals,
        each_second=[job.report, job.watch],
    )

    def end() -> None:
        with Session(job.engine) as session, session.begin():
            controllers.end(session, controller)
            job.report(session)

    with supervisor:
        # Beside the training laws are fitted (at the end, of every run), and adaptive sweeps choose their next cells.
        refitting = _beside("refit", Refitter(job.engine).run)
        choosing = _beside("adaptive", Adaptive(job.settings, job.engine).run)
        with refitting, choosing:
            while not job.stopping.is_set():
                wanted, over = job.patiently(job.demand)
                if over:
                    break
                if wanted:
                    carry_out(
                        job.engine, job.settings, supervisor, assignment, job.placing, job.cores, job.stopping
                    )
                else:
                    # Paused, or serving and idle.
                    job.stopping.wait(WAIT_SECONDS)
        job.patiently(end)
    return supervisor.deposed


@contextmanager
def _beside(name: str, loop: Callable[[threading.Event], None]) -> Iterator[None]:
    """A loop in a thread of that name while the block runs; then it is told to stop, and waited for. It goes by what
    the ledger says: should it end by an error, it is begun anew."""
    over = threading.Event()

    def go_on() -> None:
        while True:
            try:
                return loop(over)
            except Exception:
                log.exception("%s: an error that nobody foresaw", name)
            if over.wait(AFTER_ERROR_SECONDS):
                return

    thread = threading.Thread(target=go_on, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(job: _Job, on_following: Callable[[controllers.Leader], None] | None) -> bool:
    """Watch whoever leads until it is gone: then this one leads, and True is returned. False: all that was asked for
    is over, or this one was told to stop."""
    following: str | None = None
    sign, silent = None, 0
    while not job.patiently(job.leadership.try_acquire):

        def look() -> tuple[controllers.Leader | None, tuple[int, datetime] | None, bool]:
            job.leadership.wish(job.sweep_ids or ())
            with Session(job.engine) as session:
                job.report(session)
                return controllers.leader(session), controllers.sign_of_life(session), job.over(session)

        leader, newest, over = job.patiently(look)
        sign, silent = newest, silent + 1 if newest == sign else 0
        if sign is not None and silent >= SILENT_LOOKS:
            log.warning("the leader gives no sign of life: deposed")
            with Session(job.engine) as session, session.begin():
                controllers.depose(session, sign)
            silent = 0
        if over:
            return False
        if leader is not None and leader.alive and leader.id != following:
            following = leader.id
            log.info("controller %s leads: following", leader.id)
            if on_following is not None:
                on_following(leader)
        if job.stopping.wait(WAIT_SECONDS):
            return False
    return not job.stopping.is_set()


def _all_over(session: Session, names: Sequence[str]) -> bool:
    over = (SweepState.completed, SweepState.cancelled)
    return all(sweeps.get(session, name).state in over for name in names)


def _active(session: Session) -> list[str]:
    return [sweep.name for sweep in sweeps.list_(session) if sweep.state is SweepState.active]


@contextmanager
def _stop_on_signals(stopping: threading.Event, signalled: threading.Event) -> Iterator[None]:
    """First signal: stop at a checkpoint. Second: as it was. Outside the main thread signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind in kinds:
            signal.signal(kind, before[kind])

    def stop(number: int, frame: FrameType | None) -> None:
        signalled.set()
        stopping.set()
        restore()

    for kind in kinds:
        signal.signal(kind, stop)
    try:
        yield
    finally:
        restore()


@contextmanager
def _log_file(settings: Settings) -> Iterator[None]:
    """Everything that is logged goes to a file; the terminal is the caller's."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(settings.logs / "controller.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ours = [logging.getLogger(name) for name in ("orchestrator", "ledger", "fitter", "ray.tune")]
    for logger in ours:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    logging.getLogger("ray.tune").propagate = False
    try:
        yield
    finally:
        for logger in ours:
            logger.removeHandler(handler)
        handler.close()
