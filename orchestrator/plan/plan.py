"""The plan of a sweep: its runs, its forest, and what both cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.plan.forest import PlannedSegment, forest
from orchestrator.plan.programs import PlannedRun, run_of
from orchestrator.plan.uncollected import uncollected
from orchestrator.plan.warnings import warnings
from orchestrator.spec.cells import cells
from orchestrator.spec.problems import SpecError
from orchestrator.spec.schema import Spec
from trainer.program import OPTIMIZERS, DataStream, key_of

#: Byte-level vocabulary: 256 bytes, 3 specials, 125 sentinels (ByT5).
BYTE_VOCABULARY = 384


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A spec made concrete. Pure value: writing it down is `orchestrator.submit`'s work."""

    spec: Spec
    runs: list[PlannedRun]
    segments: list[PlannedSegment]
    paths: list[list[str]]
    data_digest: str | None
    """Digest of the prepared data; None where it is not prepared here: keys are provisional then."""
    reused: frozenset[str]
    """Keys of segments that the ledger already has completed."""
    repeats: list[float] | None = None
    """How often each run goes through the training data; None where they are not prepared."""

    def with_completed(self, completed: Iterable[str]) -> Plan:
        """The same plan, knowing which states exist already."""
        wanted = {segment.key for segment in self.segments}
        return replace(self, reused=frozenset(key for key in completed if key in wanted))

    @property
    def flops_alone(self) -> float:
        """FLOPs if every run were trained by itself (dense accounting)."""
        return sum(run.flops_per_step * run.cell.steps for run in self.runs)

    @property
    def flops_shared(self) -> float:
        """FLOPs of all segments of the forest, each once."""
        return sum(segment.flops for segment in self.segments)

    @property
    def flops_left(self) -> float:
        """FLOPs of the segments that are not completed yet."""
        return sum(segment.flops for segment in self.segments if segment.key not in self.reused)

    @property
    def saved(self) -> float:
        """Share of the FLOPs that sharing saves."""
        return _saved(self.flops_shared, self.flops_alone)

    @property
    def saved_nominal(self) -> float:
        """The same share with the paper's nominal N for the weights, 6·N·D: shapes are rounded, formulas are not."""
        # Each segment's program is that of a run, the very object.
        per_step = {id(run.program): float(run.shape.nominal * run.data_per_step) for run in self.runs}
        alone = sum(per_step[id(run.program)] * run.cell.steps for run in self.runs)
        shared = sum(
            per_step[id(segment.program)] * (segment.end - segment.start) for segment in self.segments
        )
        return _saved(shared, alone)

    @property
    def runs_sharing(self) -> int:
        """Runs with at least one segment that another run needs as well."""
        users: dict[str, int] = {}
        for path in self.paths:
            for key in path:
                users[key] = users.get(key, 0) + 1
        return sum(any(users[key] > 1 for key in path) for path in self.paths)

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """The largest state of each dense shape, largest first: name of a run that writes it, weights, bytes."""
        found: dict[int, dict[str, Any]] = {}
        for run in self.runs:
            size = state_bytes(run)
            if size > found.get(run.shape.total, {"bytes": 0})["bytes"]:
                found[run.shape.total] = {"run": run.name, "params": run.shape.total, "bytes": size}
        return sorted(found.values(), key=lambda entry: -entry["bytes"])

    def warnings(self) -> list[str]:
        """What the user should know before a FLOP is spent."""
        return warnings(self.spec, self.runs, self.repeats, prepared=self.data_digest is not None)

    def document(self) -> dict[str, Any]:
        """What `lacuna plan --json` prints. FLOPs in dense accounting."""
        return {
            "name": self.spec.name,
            "runs": len(self.runs),
            "segments": len(self.segments),
            "runs_sharing": self.runs_sharing,
            "reused": len(self.reused),
            "flops": {"alone": self.flops_alone, "shared": self.flops_shared, "left": self.flops_left},
            "saved": self.saved,
            "saved_nominal": self.saved_nominal,
            "checkpoints": self.checkpoints[:3],
            "data_digest": self.data_digest,
            "warnings": self.warnings(),
        }


def build(
    spec: Spec,
    *,
    data_digest: str | None = None,
    vocab_size: int | None = None,
    then_digest: str | None = None,
    rows: Callable[[DataStream], float] | None = None,
) -> Plan:
    """Plan a sweep.

    `data_digest`, `vocab_size`, `then_digest` (of the source to which runs switch) and `rows` (examples in the
    training data, as a stream cuts them) come from the prepared data; without them the plan is provisional.
    Raises SpecError.
    """
    found, problems = cells(spec)
    if problems:
        raise SpecError(problems, spec.name)
    digest = data_digest or f"unprepared:{key_of(spec.data.model_dump())}"
    if vocab_size is None and spec.data.tokenizer == "byte":
        vocab_size = BYTE_VOCABULARY
    with uncollected():
        runs = [run_of(cell, spec, digest, vocab_size, then_digest) for cell in found]
        grown = forest([(run.program, run.flops_per_step) for run in runs])
    return Plan(
        spec=spec,
        runs=runs,
        segments=grown.segments,
        paths=grown.paths,
        data_digest=data_digest,
        reused=frozenset(),
        repeats=None if rows is None else _repeats(runs, rows),
    )


def _saved(shared: float, alone: float) -> float:
    """The share, without what rounding makes of two sums of the same terms."""
    return round(1 - shared / alone, 12) + 0.0


def state_bytes(run: PlannedRun) -> int:
    """Bytes of a checkpoint of a run: weights and moments in float32, a bit of mask for each linear weight.

    Factored second moments, a row and a column of each matrix, count as nothing.
    """
    optimizer = run.program.optimizer
    moments = OPTIMIZERS[optimizer.name] - optimizer.factored
    masks = run.shape.linear // 8 if run.cell.sparsity else 0
    return 4 * run.shape.total * (1 + moments) + masks


def _repeats(runs: Sequence[PlannedRun], rows: Callable[[DataStream], float]) -> list[float]:
    """How often each run goes through its data; of two streams, that which is gone through more often."""
    known: dict[DataStream, float] = {}

    def passes(stream: DataStream, examples: int) -> float:
        if stream not in known:
            known[stream] = rows(stream)
        return examples / known[stream]

    found = []
    for run in runs:
        program = run.program
        before = program.steps if program.then is None else program.then.at
        first = passes(program.data, before * program.batch_size)
        if program.then is None:
            found.append(first)
        else:
            after = (program.steps - before) * program.batch_size
            found.append(max(first, passes(program.then.data, after)))
    return found
