"""A spec against what is at hand: its data on this machine, the completed states and measured times of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import segments
from ledger.errors import SweepExists
from ledger.models import Sweep
from ledger.settings import Settings
from ledger.throughput import StepTime, step_times
from orchestrator.plan.cost import PoolCost, costs
from orchestrator.plan.plan import Plan, build
from orchestrator.pools import declared
from orchestrator.spec import Spec
from trainer.data import copies
from trainer.data.batches import training_rows
from trainer.data.prepare import find, prepare
from trainer.data.prepared import Prepared, open_prepared
from trainer.data.source import DataSource
from trainer.errors import DataError


def then_source(spec: Spec) -> DataSource | None:
    """The source to which runs switch, prepared as the first one is; None where there is none."""
    then = spec.data.then
    if then is None:
        return None
    return replace(
        data_source(spec),
        source=then.source,
        subset=then.subset,
        revision=then.revision,
        text_column=then.text_column,
        max_tokens=then.max_tokens,
        image_column=then.image_column,
        label_column=then.label_column,
    )


def data_source(spec: Spec) -> DataSource:
    """The spec's data as the trainer's preparation takes it."""
    data = spec.data
    return DataSource(
        source=data.source,
        subset=data.subset,
        revision=data.revision,
        text_column=data.text_column,
        tokenizer=data.tokenizer,
        max_tokens=data.max_tokens,
        validation_share=data.validation_share,
        image_column=data.image_column,
        label_column=data.label_column,
        image_size=data.image_size,
        max_labels=data.max_labels,
    )


def plan_for(settings: Settings, spec: Spec, engine: Engine | None) -> Plan:
    """The plan of a spec against what this machine has: its prepared data, and the ledger's completed states."""
    second = then_source(spec)
    return planned(
        spec,
        find(data_source(spec), settings.data),
        None if second is None else find(second, settings.data),
        engine,
    )


def plan_of(settings: Settings, spec: Spec, sweep: Sweep) -> Plan:
    """The plan of a sweep that the ledger has, on the data that its runs have seen. Raises DataError, SweepExists."""
    second = then_source(spec)
    return planned(
        spec,
        prepared_for(settings, data_source(spec), sweep, "data", None),
        None if second is None else prepared_for(settings, second, sweep, "then", None),
        None,
    )


def costs_of(settings: Settings, plan: Plan, engine: Engine | None) -> list[PoolCost]:
    """What is left of the plan costs on each pool, by the times that the ledger has measured, if there is one."""
    measured: list[StepTime] = []
    if engine is not None:
        with Session(engine) as session:
            measured = step_times(session)
    return costs(plan, declared(settings), measured)


def prepared_for(
    settings: Settings,
    source: DataSource,
    existing: Sweep | None,
    name: Literal["data", "then"],
    on_preparing: Callable[[int], None] | None,
) -> Prepared:
    """The data of a sweep, or those to which it switches.

    One that exists stays with the data that its runs have seen, even if the source changed.

    Raises DataError where the data cannot be had, SweepExists where those of the sweep are gone and others stand there.
    """
    planned: str | None = existing.plan.get(f"{name}_path") if existing is not None else None
    if existing is not None and planned is not None:
        with suppress(DataError):
            return open_prepared(
                copies.on_this_machine(
                    Path(planned), str(existing.plan.get(f"{name}_digest")), settings.storage
                )
            )
    prepared = prepare(source, settings.data, progress=on_preparing)
    if existing is not None and existing.plan.get(f"{name}_digest") != prepared.digest:
        raise SweepExists(
            f"the data of sweep {existing.name!r} are gone from {planned} and {source.source!r} now gives others "
            f"(digest {prepared.digest[:12]}): its runs would not compare; give this sweep another name"
        )
    return prepared


def planned(spec: Spec, prepared: Prepared | None, then: Prepared | None, engine: Engine | None) -> Plan:
    """The plan of a spec on these data, `then` those to which it switches; with the ledger's completed states where
    there is one."""
    if prepared is None or (then is None and spec.data.then is not None):
        return build(spec)
    at_hand = {data.digest: data for data in (prepared, then) if data is not None}
    plan = build(
        spec,
        data_digest=prepared.digest,
        vocab_size=max(data.vocab_size for data in at_hand.values()),
        then_digest=None if then is None else then.digest,
        rows=lambda stream: training_rows(stream, at_hand[stream.digest]),
    )
    if engine is None:
        return plan
    with Session(engine) as session:
        return plan.with_completed(segments.completed(session, [segment.key for segment in plan.segments]))
