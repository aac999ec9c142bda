"""The cells of a sweep: the product of the grid's axes, plus `extra`, minus `exclude`; each a small whole spec."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.spec.problems import Problem
from orchestrator.spec.schema import (
    DataSpec,
    ExecutionSpec,
    GridSpec,
    ModelSpec,
    PruningSpec,
    Spec,
    TrainingSpec,
)
from trainer.data.source import holds_images
from trainer.errors import PretrainedError
from trainer.families import rules
from trainer.parts import OF_IMAGES, OPTIONS_OF
from trainer.pretrained import inspect
from trainer.program import Pruning
from trainer.pruning.methods import method_for
from trainer.pruning.rounds import in_rounds
from trainer.pruning.rules import groups_of, unsuited
from trainer.ranks import cannot_share
from trainer.shapes import Shape, shape_for, shape_of

MAX_CELLS = 100_000

#: Axes that every cell has, in the order in which they vary (the last fastest).
POINT = ("nonzero_params", "sparsity", "steps", "seed")

#: Where a further axis belongs: the part of the spec whose scalar it varies.
VARIED = {
    **dict.fromkeys(PruningSpec.model_fields, "pruning"),
    **dict.fromkeys(TrainingSpec.model_fields.keys() - {"learning_rate"}, "training"),
    **dict.fromkeys(("sequence_length", "unique"), "data"),
    "family": "model",
    "start_from": "model",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the grid: its point, and the parts of the spec as they hold for it."""

    nonzero_params: float
    sparsity: float
    steps: int
    seed: int
    model: ModelSpec
    data: DataSpec
    pruning: PruningSpec
    training: TrainingSpec
    place: str
    """Where in the YAML it came from, for messages: `grid` or `grid.extra[3]`."""

    def shape(self, **decided: Any) -> Shape:
        """The model's shape: that of the checkpoint it starts from, or by the family's rule from options and `decided`.

        Raises ShapeError where none fits, PretrainedError where there is no such checkpoint.
        """
        family = self.model.family
        if self.model.start_from:
            return shape_of(family, inspect(self.model.start_from, family).dims)
        dense = self.nonzero_params / (1 - self.sparsity)
        return _shape(self.model, dense, tuple(sorted(decided.items())))

    @property
    def switch(self) -> int | None:
        """The first step on the second source; None where there is none."""
        then = self.data.then
        if then is None:
            return None
        return round(then.at * self.steps) if then.at < 1 else int(then.at)

    def pruning_in_steps(self) -> Pruning:
        """The pruning as the trainer has it, shares of the run turned into steps."""
        return _in_steps(self.pruning, self.sparsity, self.steps)


# Thousands of cells differ in size and seed only.
@lru_cache(maxsize=1024)
def _in_steps(pruning: PruningSpec, sparsity: float, steps: int) -> Pruning:
    every = max(1, round(pruning.every * steps)) if pruning.every < 1 else int(pruning.every)
    start, end = (round(share * steps) for share in (pruning.start, pruning.end))
    if method_for(pruning.method).rewinds:
        start, end, every = in_rounds(start, pruning.rounds, steps)
    return Pruning(
        method=pruning.method,
        pattern=pruning.pattern,
        distribution=pruning.distribution,
        sparsity=sparsity,
        start=start,
        end=end,
        every=every,
    )


@lru_cache(maxsize=1024)
def _shape(model: ModelSpec, dense: float, decided: tuple[tuple[str, Any], ...]) -> Shape:
    """Cells that differ in length or seed have one shape."""
    return shape_for(model.family, dense, {**dict(decided), **model.options()})


def cells(spec: Spec) -> tuple[list[Cell], list[Problem]]:
    """All cells in the grid's order, without repeats, and what is wrong with any of them: lists not to be changed.

    A dense cell (sparsity 0) is one cell however many methods or patterns the grid has: nothing is pruned in it.
    """
    return spec.found


def find(spec: Spec) -> tuple[list[Cell], list[Problem]]:
    """As `cells`, each time anew."""
    problems = _axis_problems(spec)
    if problems:
        return [], problems
    axes = spec.grid.axes()
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_CELLS:
        message = f"the product of the axes has {count:,} cells: at most {MAX_CELLS:,} make a sweep"
        return [], [Problem(path="grid", message=message)]
    found: dict[tuple[Any, ...], Cell] = {}
    seen_problems: dict[tuple[str, str], Problem] = {}
    parts = _Parts(spec)
    for point, place in _points(spec.grid, axes):
        try:
            cell = parts.cell(point, place)
        except ValidationError as error:
            for item in error.errors():
                path = ".".join([place, *map(str, item["loc"])])
                problem = Problem(path=path, message=item["msg"], value=item["input"])
                seen_problems.setdefault((path, str(item["input"])), problem)
            continue
        except PretrainedError as error:
            problem = Problem(path="model.start_from", message=str(error))
            seen_problems.setdefault((problem.path, problem.message), problem)
            continue
        for problem in [*_cell_problems(cell), *_share_problems(cell, spec.execution)]:
            seen_problems.setdefault((problem.path, problem.message), problem)
        found.setdefault(_identity(cell), cell)
    if not found and not seen_problems:
        message = "excludes every cell: a sweep needs at least one"
        seen_problems["", ""] = Problem(path="grid.exclude", message=message)
    return list(found.values()), list(seen_problems.values())


def _points(grid: GridSpec, axes: Mapping[str, list[Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        if not any(_matches(point, excluded) for excluded in grid.exclude):
            yield point, "grid"
    for index, extra in enumerate(grid.extra):
        # An extra cell says what differs; axes with one value need not be repeated.
        alone = {name: values[0] for name, values in axes.items() if len(values) == 1}
        yield {**alone, **extra}, f"grid.extra[{index}]"


def idle_exclusions(grid: GridSpec) -> list[int]:
    """Places in `exclude` that leave out no cell of the product: most often a value that is not on its axis."""
    axes = grid.axes()

    def hits(name: str, wanted: Any) -> bool:
        return any(_matches({name: value}, {name: wanted}) for value in axes.get(name, ()))

    return [
        index
        for index, excluded in enumerate(grid.exclude)
        if not all(hits(name, wanted) for name, wanted in excluded.items())
    ]


def _matches(point: Mapping[str, Any], excluded: Mapping[str, Any]) -> bool:
    """Whether each named value equals the point's, or is in the list of values that `exclude` gives for it."""
    return all(
        point.get(name) in value if isinstance(value, list) else point.get(name) == value
        for name, value in excluded.items()
    )


class _Parts:
    """Builds cells, validating each combination of varied values once however many cells share it. Equal parts of
    different cells are one object."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.cache: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
        self.known: dict[BaseModel, BaseModel] = {}

    def cell(self, point: Mapping[str, Any], place: str) -> Cell:
        varied = tuple(sorted((name, value) for name, value in point.items() if name not in POINT))
        parts = self.cache.get(varied)
        if parts is None:
            parts = self.cache[varied] = self._varied(dict(varied))
        values = {name: point[name] for name in POINT if name in point}
        if place != "grid":  # whose axes are validated
            grid = GridSpec.model_validate(values)
            values = {name: getattr(grid, name)[0] for name in values}
        model = parts["model"]
        if model.start_from:
            # The law's N counts as everywhere: nominally, by the width.
            dense = shape_of(model.family, inspect(model.start_from, model.family).dims).nominal
            values["nonzero_params"] = dense * (1 - values["sparsity"])
        return Cell(place=place, **values, **parts)

    def _varied(self, varied: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for part in ("model", "data", "pruning", "training"):
            value = getattr(self.spec, part)
            changes = {name: new for name, new in varied.items() if _part_of(name) == part}
            if changes:
                value = type(value).model_validate({**_kept(value, changes), **changes})
            result[part] = self.known.setdefault(value, value)
        return result


def _kept(value: BaseModel, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a part keeps beside the varied values: another method brings its window and period unless one was chosen."""
    kept = value.model_dump()
    if "method" in changes:
        before = method_for(kept["method"])
        if (kept["start"], kept["end"]) == before.window:
            del kept["start"], kept["end"]
        if kept["every"] == before.period:
            del kept["every"]
    return kept


def _part_of(axis: str) -> str:
    return VARIED.get(axis, "model")


def _axis_problems(spec: Spec) -> list[Problem]:
    """Axes that repeat a value, and extra cells that leave an open axis out."""
    problems = _size_problems(spec)
    grid = spec.grid
    point = POINT if grid.nonzero_params else POINT[1:]
    for index, entry in enumerate(grid.extra):
        missing = [name for name in point if name not in entry and len(getattr(grid, name)) != 1]
        if missing:
            message = f"lacks {', '.join(missing)}: an extra cell names every axis that has several values"
            problems.append(Problem(path=f"grid.extra[{index}]", message=message))
    for axis, values in grid.axes().items():
        for index, value in enumerate(values):
            if value in values[:index]:
                message = "stands twice on its axis: keep one"
                problems.append(Problem(path=f"grid.{axis}[{index}]", message=message, value=value))
    return problems


def _size_problems(spec: Spec) -> list[Problem]:
    """The size comes from the grid, or from a checkpoint and nothing else."""
    started = bool(spec.model.start_from or (spec.grid.model_extra or {}).get("start_from"))
    if not started:
        message = "is missing: name at least one size, or a checkpoint to start from in model.start_from"
        return [] if spec.grid.nonzero_params else [Problem(path="grid.nonzero_params", message=message)]
    problems = []
    if spec.grid.nonzero_params:
        message = "the checkpoint of start_from brings the size: leave it out"
        problems.append(Problem(path="grid.nonzero_params", message=message))
    for name in spec.model.options():
        message = "the checkpoint of start_from brings the shape: leave it out"
        problems.append(Problem(path=f"model.{name}", message=message))
    return problems


def _cell_problems(cell: Cell) -> list[Problem]:
    problems = []
    pruning = cell.pruning
    groups = groups_of(pruning.pattern)
    if groups is not None and cell.sparsity > 0 and abs(cell.sparsity - groups.sparsity) > 1e-9:
        message = (
            f"the pattern {pruning.pattern} means a sparsity of {groups.sparsity:g}: "
            f"exclude the cells of sparsity {cell.sparsity:g} or leave the pattern unstructured"
        )
        problems.append(Problem(path=f"{cell.place}.sparsity", message=message, value=cell.sparsity))
    if cell.sparsity > 0:
        problems.extend(_schedule_problems(cell))
        for key, message in unsuited(pruning.method, pruning.pattern, pruning.distribution).items():
            problems.append(Problem(path=f"pruning.{key}", message=message, value=getattr(pruning, key)))
    micro, batch = cell.training.micro_batch, cell.training.batch_size
    if micro and batch % micro:
        message = f"does not divide the batch of {batch}: take a divisor, or 0 for the whole batch at once"
        problems.append(Problem(path="training.micro_batch", message=message, value=micro))
    training, rate = cell.training, cell.training.learning_rate
    for option, names in OPTIONS_OF.items():
        if (value := getattr(training, option)) and training.optimizer not in names:
            message = f"{training.optimizer} has none: leave it out, or use {' or '.join(names)}"
            problems.append(Problem(path=f"training.{option}", message=message, value=value))
    if rate.linear_warmup and rate.schedule != "rsqrt":
        message = f"is of rsqrt: {rate.schedule} always rises linearly; leave it out"
        problems.append(Problem(path="training.learning_rate.linear_warmup", message=message, value=True))
    if rate.cooldown and rate.schedule != "rsqrt":
        message = f"is of rsqrt: {rate.schedule} has none; leave it out"
        problems.append(Problem(path="training.learning_rate.cooldown", message=message, value=rate.cooldown))
    problems += _source_problems(cell)
    if cell.switch is not None and not 0 < cell.switch < cell.steps:
        message = f"is step {cell.switch}, which lies outside a run of {cell.steps} steps"
        problems.append(
            Problem(path="data.then.at", message=message, value=cell.data.then and cell.data.then.at)
        )
    if cell.switch is not None and cell.sparsity > 0 and method_for(pruning.method).rewinds:
        message = f"{pruning.method} goes back to an earlier step: it cannot switch its data"
        problems.append(Problem(path="data.then", message=message))
    if rate.cooldown >= cell.steps:
        message = f"does not fit into {cell.steps} steps"
        problems.append(Problem(path="training.learning_rate.cooldown", message=message, value=rate.cooldown))
    return problems


def _source_problems(cell: Cell) -> list[Problem]:
    """Images for a family that reads text, or the other way round: told before anything is prepared."""
    wanted = OF_IMAGES in rules(cell.model.family).OBJECTIVES
    message = (
        f"{cell.model.family} reads images: name their column in image_column, or use digits"
        if wanted
        else f"{cell.model.family} reads text: leave image_column out, or use family vit"
    )
    then = cell.data.then
    sources = [("data", cell.data.source, cell.data.image_column)]
    sources += [("data.then", then.source, then.image_column)] if then else []
    problems = [
        Problem(path=f"{path}.source", message=message, value=source)
        for path, source, column in sources
        if holds_images(source, column) is not wanted
    ]
    problems += [
        Problem(
            path=f"data.{name}", message=f"changes images, and {cell.model.family} reads text: leave it out"
        )
        for name in ("random_flip", "crop_padding")
        if getattr(cell.data, name) and not wanted
    ]
    if cell.training.label_smoothing and cell.model.options().get("loss") == "sigmoid":
        message = "is of a softmax: leave it out, or set model.loss: softmax"
        problems.append(Problem(path="training.label_smoothing", message=message))
    return problems


def _share_problems(cell: Cell, execution: ExecutionSpec) -> list[Problem]:
    """Batches that the devices of a run cannot share."""
    devices, batch = execution.devices_per_run, cell.training.batch_size
    if devices == 1:
        return []
    if execution.device == "xla":
        message = f"{devices} chips cannot share batches of {batch}: use a multiple of {devices}"
        return [Problem(path="training.batch_size", message=message, value=batch)] if batch % devices else []
    found = cannot_share(batch, cell.training.micro_batch, devices)
    if found is None:
        return []
    return [Problem(path="execution.devices_per_run", message=found, value=devices)]


def _schedule_problems(cell: Cell) -> list[Problem]:
    """What the method itself says against this schedule; with the way out where a period does not fit."""
    found = _misfits(cell.pruning, cell.sparsity, cell.steps)
    return [Problem(path=f"{cell.place}.steps", message=message, value=cell.steps) for message in found]


@lru_cache(maxsize=1024)
def _misfits(pruning: PruningSpec, sparsity: float, steps: int) -> tuple[str, ...]:
    in_steps = _in_steps(pruning, sparsity, steps)
    found = list(method_for(pruning.method).problems(in_steps, steps))
    if found and not method_for(pruning.method).rewinds and in_steps.end % in_steps.every:
        fits = max(every for every in range(1, in_steps.every + 1) if in_steps.end % every == 0)
        found[-1] += f"; pruning.every: {fits} fits, or take other steps"
    return tuple(found)


def _identity(cell: Cell) -> tuple[Any, ...]:
    point = (cell.nonzero_params, cell.sparsity, cell.steps, cell.seed)
    # By `is`, not by value: parts know no other equals (see `_Parts`), and to hash all their fields takes longer.
    pruning = None if cell.sparsity == 0 else id(cell.pruning)
    return (*point, id(cell.model), id(cell.data), pruning, id(cell.training))
