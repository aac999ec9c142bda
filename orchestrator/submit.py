"""From a spec's text to rows in the ledger. The one way in, for the command and for the service.

Submitting the same spec again does nothing. A larger grid under the same name adds the cells that are new. Any other
change under an old name is refused, with what differs and the way out: results would no longer say what made them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import segments, sweeps
from ledger.errors import SweepExists
from ledger.models import Sweep
from ledger.settings import Settings
from ledger.throughput import StepTime, step_times
from orchestrator.plan.cost import PoolCost, costs
from orchestrator.plan.plan import Plan, build
from orchestrator.plan.uncollected import uncollected
from orchestrator.pools import declared
from orchestrator.spec import Spec, load_spec
from trainer.data import copies
from trainer.data.batches import training_rows
from trainer.data.feed import unlike
from trainer.data.prepare import find, prepare
from trainer.data.prepared import Prepared, open_prepared
from trainer.data.source import DataSource
from trainer.errors import DataError
from trainer.program import key_of


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What became of a submission."""

    name: str
    outcome: Literal["created", "extended", "unchanged"]
    runs_added: int
    plan: dict[str, Any]

    @property
    def created(self) -> bool:
        """Whether the sweep is new."""
        return self.outcome == "created"


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
    return _planned(
        spec,
        find(data_source(spec), settings.data),
        None if second is None else find(second, settings.data),
        engine,
    )


def plan_of(settings: Settings, spec: Spec, sweep: Sweep) -> Plan:
    """The plan of a sweep that the ledger has, on the data that its runs have seen. Raises DataError, SweepExists."""
    second = then_source(spec)
    return _planned(
        spec,
        _prepared(settings, data_source(spec), sweep, "data", None),
        None if second is None else _prepared(settings, second, sweep, "then", None),
        None,
    )


def costs_of(settings: Settings, plan: Plan, engine: Engine | None) -> list[PoolCost]:
    """What is left of the plan costs on each pool, by the times that the ledger has measured, if there is one."""
    measured: list[StepTime] = []
    if engine is not None:
        with Session(engine) as session:
            measured = step_times(session)
    return costs(plan, declared(settings), measured)


def submit_text(
    settings: Settings,
    engine: Engine,
    text: str | bytes,
    source: str = "spec",
    *,
    on_preparing: Callable[[int], None] | None = None,
) -> Submitted:
    """Check, plan and store a sweep. `on_preparing` hears of tokens prepared so far.

    Raises SpecError with every problem, DataError where the data cannot be had, SweepExists where another sweep has
    the name. Nothing is stored then.
    """
    spec = load_spec(text, source, declared(settings))
    written = text.decode() if isinstance(text, bytes) else text
    digest = key_of(spec.canonical())
    with Session(engine) as session:
        existing = sweeps.find(session, spec.name)
        if existing is not None:
            _refuse_other(existing, spec)
            if existing.spec_digest == digest:
                return Submitted(name=spec.name, outcome="unchanged", runs_added=0, plan=existing.plan)
        prepared = _prepared(settings, data_source(spec), existing, "data", on_preparing)
        second = then_source(spec)
        then = None if second is None else _prepared(settings, second, existing, "then", on_preparing)
    if then is not None and (reason := unlike(prepared, then)) is not None:
        raise DataError(reason)
    if settings.storage_url is not None:
        # Whoever trains elsewhere reaches the storage, and not this disk.
        for data in (prepared, then):
            if data is not None:
                copies.publish(data, settings.storage)
    plan = _planned(spec, prepared, then, engine)
    document = {**plan.document(), "data_path": str(prepared.path)}
    if then is not None:
        document |= {"then_path": str(then.path), "then_digest": then.digest}
    places: list[int] | None = None
    if spec.execution.strategy == "adaptive":
        from orchestrator import adaptive  # and with it what fits laws: few sweeps need it

        with Session(engine) as session:
            known = adaptive.known_of(session, sweeps.find(session, spec.name), plan)
        places, standing = adaptive.choose(plan, known, adaptive.room(spec.execution, declared(settings)))
        document["adaptive"] = asdict(standing)
    with uncollected(), Session(engine) as session, session.begin():
        runs = list(run_rows(plan, places))
        needed = {key for run in runs for key in run["path"]}
        rows: dict[str, Any] = {
            "spec": spec.canonical(),
            "spec_text": written,
            "spec_digest": digest,
            "plan": document,
            "segments": [row for row in segment_rows(plan, str(prepared.path)) if row["key"] in needed],
            "runs": runs,
        }
        if sweeps.find(session, spec.name) is None:
            sweeps.add(session, name=spec.name, **rows)
            return Submitted(
                name=spec.name, outcome="created", runs_added=len(rows["runs"]), plan=rows["plan"]
            )
        added = sweeps.extend(session, spec.name, **rows)
        outcome: Literal["extended", "unchanged"] = "extended" if added else "unchanged"
        return Submitted(name=spec.name, outcome=outcome, runs_added=added, plan=rows["plan"])


def _prepared(
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


def _planned(spec: Spec, prepared: Prepared | None, then: Prepared | None, engine: Engine | None) -> Plan:
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


def segment_rows(plan: Plan, data_path: str) -> Iterator[dict[str, Any]]:
    """The segments of a plan as the ledger takes them."""
    for segment in plan.segments:
        yield {
            "key": segment.key,
            "parent_key": segment.parent,
            "start_step": segment.start,
            "end_step": segment.end,
            "program": json.dumps(segment.program.to_dict()),
            "data_path": data_path,
            "flops": segment.flops,
            "priority": segment.priority,
        }


def run_rows(plan: Plan, places: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """The runs of a plan as the ledger takes them; `places`: only these."""
    for place in range(len(plan.runs)) if places is None else places:
        run, path = plan.runs[place], plan.paths[place]
        yield {"name": run.name, "cell": run.columns(), "tip_key": path[-1], "path": path}


def _refuse_other(existing: Sweep, spec: Spec) -> None:
    """Raise SweepExists where the name stands for something that this spec does not extend."""
    changes = list(_differences(existing.spec, spec.canonical(), ""))
    if not changes:
        return
    lines = [f"a sweep named {spec.name!r} exists with another content:"]
    lines += [f"  {path}: {_shown(old)} there, {_shown(new)} here" for path, old, new in changes]
    lines.append(
        "give this one another name; only `grid` may grow and `execution` change under the same name"
    )
    raise SweepExists("\n".join(lines))


_MISSING = object()


def _shown(value: Any) -> str:
    return "nothing" if value is _MISSING else repr(value)


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two specs differ in a way that a sweep cannot absorb: all but execution, and axes that only grow."""
    if path == "execution" or old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            place = f"{path}.{name}" if path else name
            yield from _differences(old.get(name, _MISSING), new.get(name, _MISSING), place)
        return
    if path.startswith("grid.") and isinstance(old, list) and isinstance(new, list):
        grows, shrinks = (old, new) if path == "grid.exclude" else (new, old)
        if all(value in grows for value in shrinks):
            return
    yield path, old, new
