"""From a cell of the grid to the program that a trainer carries out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fitter.numbers import short
from ledger.settings import Settings
from orchestrator.spec.cells import Cell
from orchestrator.spec.schema import DataSpec, Spec, TrainingSpec
from trainer.families import rules
from trainer.pretrained import inspect, start_at
from trainer.program import DataStream, LearningRate, Numerics, Optimizer, Program, Start, Switch
from trainer.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One cell with its program, its shape and what it costs alone."""

    name: str
    cell: Cell
    program: Program
    shape: Shape
    counted: str = "nominal"
    """What the law's N counts (spec: law.params): nominal or linear."""

    @property
    def data(self) -> float:
        """D: input positions (or images) read over the whole run (paper, section 3)."""
        return float(self.cell.steps * self.data_per_step)

    @cached_property
    def data_per_step(self) -> int:
        """What one step adds to D: tokens, or images, as the family counts."""
        per_example = rules(self.program.family).counted(self.program.data.sequence_length)
        return int(self.program.batch_size * per_example)

    @property
    def flops_per_step(self) -> float:
        """Training FLOPs of one step in dense accounting: a masked weight costs as much as a kept one."""
        return self.shape.flops_per_token * self.data_per_step

    def columns(self) -> dict[str, Any]:
        """The cell as the ledger and the runs table have it."""
        pruning = self.program.pruning
        kept = 1 - self.cell.sparsity
        return {
            "family": self.program.family,
            "method": pruning.method if pruning.sparsity else "dense",
            "pattern": pruning.pattern if pruning.sparsity else "unstructured",
            "distribution": pruning.distribution,
            "sparsity": self.cell.sparsity,
            "nonzero_params": (self.shape.linear if self.counted == "linear" else self.shape.nominal) * kept,
            "target_nonzero_params": self.cell.nonzero_params,
            "nominal_nonzero_params": self.shape.nominal * kept,
            "linear_nonzero_params": self.shape.linear * kept,
            "dense_params": self.shape.linear,
            "total_params": self.shape.total,
            "shape": dict(self.shape.dims),
            "shape_error": self.shape.error,
            "steps": self.cell.steps,
            "seed": self.cell.seed,
            "data": self.data,
            "batch_size": self.program.batch_size,
            "sequence_length": self.program.data.sequence_length,
            "flops": self.flops_per_step * self.cell.steps,
            **({"start_from": self.program.start.url} if self.program.start.url else {}),
        }


@lru_cache(maxsize=8)
def torch_version(device: str) -> str:
    """major.minor of the torch that trains on `device`: as LACUNA_TORCH_VERSIONS states it, for planners on machines
    without torch; else the one installed here, found without importing it; empty where there is neither."""
    if stated := Settings.from_environment().torch_version(device):
        return stated
    try:
        return ".".join(version("torch").split(".")[:2])
    except PackageNotFoundError:
        return ""


def program_of(
    cell: Cell, spec: Spec, data_digest: str, vocab_size: int | None, then_digest: str | None = None
) -> tuple[Program, Shape]:
    """The program of a cell, and its shape. `vocab_size` is the prepared data's; None: the family's own.

    then_digest: of the data to which the run switches; only used where the spec says that it does.
    """
    family = rules(cell.model.family)
    decided = {} if vocab_size is None else {family.VOCABULARY: vocab_size}
    if family.LENGTH is not None:
        decided[family.LENGTH] = cell.data.sequence_length
    shape = cell.shape(**decided)
    stream = _stream(cell.data, family.OBJECTIVES[0], data_digest)
    optimizer, rate, numerics = _training(
        cell.training, spec.execution.device_type, torch_version(spec.execution.device)
    )
    program = Program(
        family=cell.model.family,
        shape=dict(shape.dims),
        data=stream,
        then=_switch(cell, stream, then_digest),
        batch_size=cell.training.batch_size,
        steps=cell.steps,
        seed=cell.seed,
        optimizer=optimizer,
        learning_rate=rate,
        pruning=cell.pruning_in_steps(),
        start=_start(cell.model.start_from, cell.model.family),
        numerics=numerics,
    )
    return program, shape


# What thousands of cells have in common is made once.
@lru_cache(maxsize=1024)
def _stream(data: DataSpec, objective: str, digest: str) -> DataStream:
    return DataStream(
        digest=digest,
        objective=objective,
        sequence_length=data.sequence_length,
        noise_density=data.noise_density,
        mean_span_length=data.mean_span_length,
        evaluation_batches=data.evaluation_batches,
        evaluation_batch_size=data.evaluation_batch_size,
        unique=data.unique,
        random_flip=data.random_flip,
        crop_padding=data.crop_padding,
    )


@lru_cache(maxsize=1024)
def _training(training: TrainingSpec, device: str, torch: str) -> tuple[Optimizer, LearningRate, Numerics]:
    rate = training.learning_rate
    return (
        Optimizer(
            name=training.optimizer,
            factored=training.factored,
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
        ),
        LearningRate(**dict(rate)),
        Numerics(
            precision=training.precision,
            z_loss=training.z_loss,
            label_smoothing=training.label_smoothing,
            micro_batch=training.micro_batch,
            device_type=device,
            torch_version=torch,
        ),
    )


def _switch(cell: Cell, stream: DataStream, digest: str | None) -> Switch | None:
    then, at = cell.data.then, cell.switch
    if then is None or at is None:
        return None
    # Without prepared data the plan is provisional, as for the first source.
    return Switch(at=at, data=replace(stream, digest=digest or "unprepared", unique=then.unique))


def run_of(
    cell: Cell, spec: Spec, data_digest: str, vocab_size: int | None, then_digest: str | None = None
) -> PlannedRun:
    """The planned run of a cell."""
    program, shape = program_of(cell, spec, data_digest, vocab_size, then_digest)
    run = PlannedRun(name="", cell=cell, program=program, shape=shape, counted=spec.law.params)
    name = f"N={short(cell.nonzero_params)} S={100 * cell.sparsity:g}% D={short(run.data)}"
    name += f" {cell.pruning.method}" if cell.sparsity else " dense"
    if cell.sparsity and cell.pruning.pattern != "unstructured":
        name += f" {cell.pruning.pattern}"
    if cell.model.start_from:
        name += f" from {cell.model.start_from.rstrip('/').rpartition('/')[2]}"
    if cell.seed:  # whatever other seeds the grid has: it may grow, and the run is the same
        name += f" seed={cell.seed}"
    return replace(run, name=name)


def _start(url: str, family: str) -> Start:
    return start_at(inspect(url, family)) if url else Start()
