"""The MLflow mirror: what the ledger has, shown in MLflow. One experiment a sweep, one run a cell, one run a fit.

Level-triggered: the ledger remembers how far MLflow is (`runs.tracked_step`, `tracked_final`, `fits.tracking_id`);
each `sync` brings it up to date. A run's history is whole, its trunk's points included, although the trunk was
trained once. Killed anywhere, it finds what it made by tags and writes points again that MLflow already has, with the
times the ledger gave them, which MLflow recognises as the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import Engine, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from fitter.groups import named
from fitter.law import Law
from fitter.mlflow_pages import VIEW_KEY
from ledger import attempts, points, runs
from ledger.models import Fit, Run, RunSegment, SegmentState, Sweep, SweepState
from ledger.points import Point
from orchestrator.tracking import plots
from orchestrator.tracking.describe import (
    VIEW,
    answer,
    description,
    final_metrics,
    law_metrics,
    parameters,
    tags,
    with_tokens,
)
from orchestrator.tracking.lacking import RUN_BEHIND, behind

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: MLflow's codes for what it refuses, and would again: the others say that it is not well itself.
REFUSALS = frozenset(
    [
        *("INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", "PERMISSION_DENIED"),
        *("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"),
    ]
)

#: The columns of a run that MLflow has nothing of.
NEW = {"tracking_id": None, "tracked_step": -1, "tracked_final": False}

#: Points that MLflow takes in one call.
BATCH = 1000

#: Tags by which the mirror finds what it made.
RUN_TAG, FIT_TAG, LAW_TAG, KIND_TAG = "lacuna.run", "lacuna.fit", "lacuna.law", "lacuna.kind"

#: Which of a sweep's groups of runs a law describes.
GROUP_TAG = "lacuna.group"

#: MLflow's own tag for the text that its pages show.
NOTE_TAG = "mlflow.note.content"

log = logging.getLogger(__name__)


class Mirror:
    """Brings one MLflow store up to date with one ledger."""

    def __init__(self, engine: Engine, client: MlflowClient, artifact_root: str | None) -> None:
        """`artifact_root`: URL of the folder for experiments' artifacts; None: the tracking server decides."""
        self._engine = engine
        self._client = client
        self._artifact_root = artifact_root
        self._known: dict[tuple[int, str], dict[str, str]] = {}

    def sync(self) -> int:
        """Bring MLflow up to date; how many points, ended runs and fits were written.

        Raises what MLflow's client raises when the store does not answer; what was written until then stays noted.
        What MLflow refuses of one sweep is raised when the others are up to date.
        """
        from mlflow.exceptions import MlflowException

        with Session(self._engine) as session:
            sweep_ids = behind(session)
        written, refused = 0, None
        for sweep_id in sweep_ids:
            try:
                written += self._sync_or_restore(sweep_id)
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                log.warning("MLflow refuses what it is told of sweep %s: %s", sweep_id, str(error)[:500])
                refused = refused or error
        if refused is not None:
            raise refused
        return written

    def _sync_or_restore(self, sweep_id: int) -> int:
        from mlflow.exceptions import MlflowException

        try:
            return self._sync_sweep(sweep_id)
        except MlflowException as error:
            if error.error_code not in REFUSALS or not self._restored(sweep_id):
                raise
        return self._sync_sweep(sweep_id)

    def _restored(self, sweep_id: int) -> bool:
        """Bring back what somebody deleted in MLflow of a sweep that goes on, or have it made anew where it is gone for
        good; whether there was such."""
        self._client.search_experiments(max_results=1)  # or it is MLflow itself that is not there
        for kind in (RUN_TAG, FIT_TAG, LAW_TAG):
            self._known.pop((sweep_id, kind), None)
        with Session(self._engine) as session:
            sweep = session.get_one(Sweep, sweep_id)
            if sweep.tracking_id is None:
                return False
            stage = self._stage(self._client.get_experiment, sweep.tracking_id)
            restored = stage != "active"
            if stage == "deleted":
                self._client.restore_experiment(sweep.tracking_id)
            elif stage is None:
                sweep.tracking_id = None
                session.execute(update(Run).where(Run.sweep_id == sweep_id).values(NEW))
                session.execute(update(Fit).where(Fit.sweep_id == sweep_id).values(tracking_id=None))
            else:
                unfinished = select(Run).where(
                    Run.sweep_id == sweep_id, Run.tracking_id.is_not(None), ~Run.tracked_final
                )
                for run in session.scalars(unfinished):
                    stage = self._stage(self._client.get_run, str(run.tracking_id))
                    restored |= stage != "active"
                    if stage == "deleted":
                        self._client.restore_run(str(run.tracking_id))
                    elif stage is None:
                        session.execute(update(Run).where(Run.id == run.id).values(NEW))
            session.commit()
        if restored:
            log.warning("sweep %s: what was deleted in MLflow is brought back", sweep_id)
        return restored

    def _stage(self, get: Callable[[str], Any], tracking_id: str) -> str | None:
        """MLflow's `lifecycle_stage` of an experiment or a run; None: it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            found = get(tracking_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(getattr(found, "info", found).lifecycle_stage)

    def _sync_sweep(self, sweep_id: int) -> int:
        written = 0
        with Session(self._engine, expire_on_commit=False) as session:
            sweep = session.get_one(Sweep, sweep_id)
            self._experiment(session, sweep)
            lacking = session.scalars(
                select(Run).where(Run.sweep_id == sweep_id, text(RUN_BEHIND)).order_by(Run.position)
            ).all()
            for run in lacking:
                written += self._sync_run(session, sweep, run)
            fits = session.scalars(
                select(Fit).where(Fit.sweep_id == sweep_id, Fit.tracking_id.is_(None)).order_by(Fit.version)
            ).all()
            newest = {fit.group: fit for fit in fits}
            for fit in fits:
                self._sync_fit(session, sweep, fit, with_plots=fit is newest[fit.group])
                written += 1
            if fits:
                note = description(sweep, newest_laws(session, sweep_id))
                self._client.set_experiment_tag(str(sweep.tracking_id), NOTE_TAG, note)
            if sweep.state in (SweepState.completed, SweepState.cancelled):
                self._known.pop((sweep_id, RUN_TAG), None)
                self._known.pop((sweep_id, FIT_TAG), None)
                self._known.pop((sweep_id, LAW_TAG), None)
        return written

    def _experiment(self, session: Session, sweep: Sweep) -> None:
        """The sweep's experiment, found by its name or made."""
        # The second: MLflow's pages open as model training, not as chats and traces.
        note = {
            NOTE_TAG: description(sweep),
            "mlflow.experimentKind": "custom_model_development",
            KIND_TAG: "sweep",
            f"mlflow.sharedViewState.{VIEW_KEY}": json.dumps(VIEW),
        }
        if sweep.tracking_id is not None:
            return
        there = self._client.get_experiment_by_name(sweep.name)
        if there is not None and there.lifecycle_stage == "deleted":
            self._client.restore_experiment(there.experiment_id)
        if there is not None:
            sweep.tracking_id = there.experiment_id
            for name, value in note.items():
                self._client.set_experiment_tag(there.experiment_id, name, value)
        else:
            location = f"{self._artifact_root}/{sweep.name}" if self._artifact_root else None
            sweep.tracking_id = self._client.create_experiment(
                sweep.name, artifact_location=location, tags=note
            )
        session.commit()

    def _sync_run(self, session: Session, sweep: Sweep, run: Run) -> int:
        if run.tracking_id is None:
            run.tracking_id = self._mlflow_run(
                sweep,
                RUN_TAG,
                str(run.id),
                run.name,
                {
                    KIND_TAG: "cell",
                    "lacuna.sweep": sweep.name,
                    "status": "running",
                    **tags(run.cell, _path(session, run)),
                    **({"lacuna.segment": run.tip_key} if run.tip_key else {"lacuna.imported": "true"}),
                },
                attempts.first_start(session, run.id) or sweep.created_at,
            )
            self._log(run.tracking_id, params=parameters(run.cell))
            session.commit()
        written = 0
        # Read before the points: a run that ends between the two is finished the next time.
        ended = run.state != SegmentState.pending
        history = points.of_run(session, run.id, after_step=run.tracked_step)
        for batch in batches(with_tokens(history, run.cell)):
            self._log(run.tracking_id, metrics=batch)
            run.tracked_step = batch[-1].step
            session.commit()
            written += len(batch)
        if ended:
            self._finish(run)
            run.tracked_final = True
            session.commit()
            written += 1
        return written

    def _finish(self, run: Run) -> None:
        assert run.tracking_id is not None
        moment = int(run.completed_at.timestamp() * 1000) if run.completed_at else 0
        if run.loss is not None:
            final = final_metrics(run.loss, run.result or {})
            step = int((run.result or {}).get("step", 0))
            self._log(
                run.tracking_id, metrics=[Point(step, name, value, moment) for name, value in final.items()]
            )
        told = {"status": run.state.value}
        if run.reason:
            told[NOTE_TAG] = run.reason[:5000]
        checkpoint = (run.result or {}).get("checkpoint")
        if checkpoint:
            # A reference: the weights stay where they are.
            told["checkpoint"] = str(checkpoint)
            where = {"url": checkpoint, "step": run.result and run.result.get("step"), "segment": run.tip_key}
            self._client.log_dict(run.tracking_id, where, "checkpoint.json")
        self._log(run.tracking_id, tags=told)
        status = "FINISHED" if run.state is SegmentState.completed else "FAILED"
        self._client.set_terminated(run.tracking_id, status=status, end_time=moment or None)

    def _sync_fit(self, session: Session, sweep: Sweep, fit: Fit, *, with_plots: bool) -> None:
        group = f" {fit.group}" if fit.group else ""
        name = f"law v{fit.version}{group}: {fit.form}, {fit.runs} runs"
        tracking_id = self._mlflow_run(
            sweep,
            FIT_TAG,
            str(fit.id),
            name,
            {
                KIND_TAG: "fit",
                "lacuna.sweep": sweep.name,
                "lacuna.version": str(fit.version),
                "lacuna.runs_digest": fit.runs_digest,
                **({GROUP_TAG: fit.group} if fit.group else {}),
                NOTE_TAG: answer({fit.group: fit.document}),
            },
            fit.created_at,
        )
        moment = int(fit.created_at.timestamp() * 1000)
        self._log(
            tracking_id,
            params={"form": fit.form, "runs": str(fit.runs), "version": str(fit.version)},
            metrics=[
                Point(fit.version, name, value, moment) for name, value in law_metrics(fit.document).items()
            ],
        )
        self._client.log_dict(tracking_id, fit.document, "law.json")
        # A dozen versions may come in a minute; the plots of all but the newest nobody will look at.
        if with_plots:
            rows = runs.table(session, sweep.name)
            members = range(len(rows)) if not fit.group else named(rows).get(fit.group, [])
            done = [rows[place] for place in members if rows[place]["state"] == "completed"]
            table = pd.DataFrame(done)[["sparsity", "nonzero_params", "data", "loss"]]
            for file, figure in plots.figures(Law.from_document(fit.document), table):
                self._client.log_figure(tracking_id, figure, f"plots/{file}.png")
        self._client.set_terminated(tracking_id, end_time=moment)
        self._over_versions(sweep, fit, moment)
        fit.tracking_id = tracking_id
        session.commit()

    def _over_versions(self, sweep: Sweep, fit: Fit, moment: int) -> None:
        """One run a law whose metrics are the law's, over its versions: a chart of how they settled."""
        group = f" {fit.group}" if fit.group else ""
        tracking_id = self._mlflow_run(
            sweep,
            LAW_TAG,
            f"{sweep.id}{group}",
            f"law over versions{group}",
            {
                KIND_TAG: "law",
                "lacuna.sweep": sweep.name,
                **({GROUP_TAG: fit.group} if fit.group else {}),
            },
            sweep.created_at,
        )
        values = law_metrics(fit.document) | {"runs": float(fit.runs)}
        self._log(
            tracking_id, metrics=[Point(fit.version, name, value, moment) for name, value in values.items()]
        )
        self._client.set_terminated(tracking_id, end_time=moment)

    def _mlflow_run(
        self, sweep: Sweep, tag: str, value: str, name: str, tags: Mapping[str, str], began: datetime
    ) -> str:
        """The MLflow run with that tag: one that was made before a crash and not noted, or a new one."""
        assert sweep.tracking_id is not None
        if (sweep.id, tag) not in self._known:
            self._known[sweep.id, tag] = self._made(sweep.tracking_id, tag)
        known = self._known[sweep.id, tag]
        if value not in known:
            made = self._client.create_run(
                sweep.tracking_id,
                run_name=name,
                tags={**tags, tag: value},
                start_time=int(began.timestamp() * 1000),
            )
            known[value] = made.info.run_id
        return known[value]

    def _made(self, experiment: str, tag: str) -> dict[str, str]:
        made: dict[str, str] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment], filter_string=f"tags.`{tag}` != ''", max_results=1000, page_token=token
            )
            made |= {run.data.tags[tag]: run.info.run_id for run in page}
            token = page.token
            if not token:
                return made

    def _log(
        self,
        tracking_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            tracking_id,
            metrics=[Metric(point.name, point.value, point.milliseconds, point.step) for point in metrics],
            params=[Param(name, value) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )


def newest_laws(session: Session, sweep_id: int) -> dict[str, Mapping[str, Any]]:
    """The newest law document of each group of a sweep's runs."""
    newest = (
        select(Fit.group, Fit.version, Fit.document)
        .ext(distinct_on(Fit.group))
        .where(Fit.sweep_id == sweep_id)
        .order_by(Fit.group, Fit.version.desc())
    )
    rows = sorted(session.execute(newest), key=lambda row: row.version)
    found: dict[str, Mapping[str, Any]] = {row.group: row.document for row in rows}
    if len(found) > 1:
        found.pop("", None)  # of the sweep whole, from before it had groups
    return found


def _path(session: Session, run: Run) -> list[str]:
    """Keys of the run's segments, trunk first."""
    steps = select(RunSegment.segment_key).where(RunSegment.run_id == run.id).order_by(RunSegment.position)
    return list(session.scalars(steps))


def batches(history: Sequence[Point]) -> Iterator[list[Point]]:
    """Batches of at most BATCH points, none of which ends within a step: a cursor is a step.

    (A step has half a dozen points; a step of more than BATCH would go out in one batch of its own.)
    """
    batch: list[Point] = []
    step: list[Point] = []
    for point in history:
        if step and point.step != step[0].step:
            if len(batch) + len(step) > BATCH and batch:
                yield batch
                batch = []
            batch += step
            step = []
        step.append(point)
    if len(batch) + len(step) > BATCH and batch:
        yield batch
        batch = []
    if batch or step:
        yield batch + step
