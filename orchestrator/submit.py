"""From a spec's text to rows in the ledger. The one way in, for the command and for the service.

Submitting the same spec again does nothing. A larger grid under the same name adds the cells that are new. Any other
change under an old name is refused, with what differs and the way out: results would no longer say what made them. So
is any change where the device or torch is another one than that of the sweep's runs: by their keys all would be new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger import sweeps
from ledger.errors import SweepExists
from ledger.models import Sweep
from ledger.settings import Settings
from orchestrator.at_hand import data_source, planned, prepared_for, then_source
from orchestrator.plan.programs import torch_version
from orchestrator.plan.rows import run_rows, segment_rows
from orchestrator.plan.uncollected import uncollected
from orchestrator.pools import declared
from orchestrator.spec import Spec, load_spec
from trainer.data import copies
from trainer.data.feed import unlike
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
        if existing is not None and _repeats(session, existing, spec):
            return Submitted(name=spec.name, outcome="unchanged", runs_added=0, plan=existing.plan)
        prepared = prepared_for(settings, data_source(spec), existing, "data", on_preparing)
        second = then_source(spec)
        then = None if second is None else prepared_for(settings, second, existing, "then", on_preparing)
    if then is not None and (reason := unlike(prepared, then)) is not None:
        raise DataError(reason)
    if settings.storage_url is not None:
        # Whoever trains elsewhere reaches the storage, and not this disk.
        for data in (prepared, then):
            if data is not None:
                copies.publish(data, settings.storage)
    plan = planned(spec, prepared, then, engine)
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


def _repeats(session: Session, existing: Sweep, spec: Spec) -> bool:
    """Whether the spec is that of the sweep that has its name. Raises SweepExists where it is one that does not extend
    it."""
    there, here = existing.spec, spec.canonical()
    with suppress(ValidationError):
        # One stored by an older version lacks the fields that came since: their defaults are what it meant.
        there = Spec.model_validate(there).canonical()
    if there == here:
        return True
    changes = list(_differences(there, here, ""))
    # The keys of runs know these. Under others all runs would be new, beside the same ones of the old keys.
    planned = sweeps.numerics(session, existing.id)
    for name, path, new in (
        ("device_type", "execution.device", spec.execution.device_type),
        ("torch_version", "torch", torch_version(spec.execution.device)),
    ):
        if planned.get(name, new) != new:
            changes.append((path, planned[name], new))
    if not changes:
        return False
    lines = [f"a sweep named {spec.name!r} exists with another content:"]
    lines += [f"  {path}: {_shown(old)} there, {_shown(new)} here" for path, old, new in changes]
    lines.append(
        "give this one another name; only `grid` may grow, and `execution` change (but for the device), under the same "
        "name"
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
