"""The spec as typed values. Every default of a sweep is written here and nowhere else.

Descriptions are the user's documentation: they appear in the JSON Schema that editors read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from fitter.forms import REGISTRY
from trainer.families import FAMILIES, summary
from trainer.program import OPTIMIZERS, PRECISIONS
from trainer.pruning.distributions import DISTRIBUTIONS
from trainer.pruning.methods import METHODS, method_for
from trainer.pruning.rules import parsed

if TYPE_CHECKING:
    from orchestrator.spec.cells import Cell
    from orchestrator.spec.problems import Problem


@dataclass(frozen=True)
class OneOf:
    """A word that the trainer knows. The trainer's registries decide, so a new family or method needs nothing here."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.names)}

    def _check(self, value: str) -> str:
        if value not in self.names:
            raise ValueError(f"must be one of {', '.join(self.names)}")
        return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _exact_int(value: Any) -> Any:
    # 1e6 is how people write a million steps; 1.5 steps is a mistake that pydantic then names.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_or_share(value: float) -> float:
    if value >= 1 and not float(value).is_integer():
        raise ValueError("must be a whole number of steps, or a share of the run below 1")
    return value


Count = Annotated[int, BeforeValidator(_exact_int)]
#: So many steps, or below 1 that share of a run's.
Period = Annotated[int | float, BeforeValidator(_exact_int), AfterValidator(_whole_or_share)]


class Part(BaseModel):
    """A part of the spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(BaseModel):
    """The family, and whatever its shape rule lets one override (`trainer.shapes.model_options`)."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    family: Annotated[str, OneOf(FAMILIES)] = Field(
        description="Kind of transformer: "
        + ", ".join(f"{family} ({summary(family)})" for family in FAMILIES)
        + "."
    )

    start_from: str = Field(
        "",
        description="A dense checkpoint to start from: an address of ours, or a `transformers` folder with "
        "safetensors. It brings the shape: leave `grid.nonzero_params` and every other key here out.",
    )

    def options(self) -> dict[str, Any]:
        """The overrides, without the family."""
        return dict(self.model_extra or {})


class ThenSpec(Part):
    """Another source from some step on: fine-tuning after pre-training. All else is as in `data`."""

    at: Annotated[float, AfterValidator(_whole_or_share)] = Field(
        gt=0, description="The first step on it; below 1: a share of the run's steps. Validation follows."
    )
    source: str = Field(description="As `data.source`.")
    subset: str = Field("", description="Configuration of a `datasets` id.")
    revision: str = Field("", description="Revision of a `datasets` id.")
    text_column: str = Field("text", description="Column that holds the text.")
    image_column: str = Field("", description="Column that holds images.")
    label_column: str = Field("label", description="Column that holds their class numbers.")
    max_tokens: Count = Field(0, ge=0, description="Cap on prepared training tokens (or images); 0: none.")
    unique: Count = Field(0, ge=0, description="Train on a fixed subset of so many, repeated; 0: on all.")


class DataSpec(Part):
    """What the models are trained on, and how much of it a step reads."""

    source: str = Field(
        description="python-source (the Python files of this machine), digits (scikit-learn's images), "
        "a local file or folder, or a `datasets` id."
    )
    subset: str = Field("", description="Configuration of a `datasets` id.")
    revision: str = Field("", description="Revision of a `datasets` id.")
    text_column: str = Field("text", description="Column that holds the text.")
    tokenizer: str = Field(
        "byte", description="byte (ByT5's scheme) or a transformers tokenizer id or folder."
    )
    max_tokens: Count = Field(0, ge=0, description="Cap on prepared training tokens (or images); 0: none.")
    validation_share: float = Field(0.01, gt=0, lt=0.5, description="Share of the files held out.")
    image_column: str = Field("", description="Column that holds images, for a source of images.")
    label_column: str = Field(
        "label",
        description="Column that holds their class numbers: one, or a list for several labels an image.",
    )
    max_labels: Count = Field(1, ge=1, description="Room for so many labels an image (loss: sigmoid).")
    image_size: Count = Field(
        0, ge=0, description="Side to which images are resized, in pixels; 0: as they are."
    )
    random_flip: bool = Field(False, description="Mirror training images left to right, every second one.")
    crop_padding: Count = Field(
        0, ge=0, description="Pad training images by so many black pixels, then crop at random; 0: do not."
    )
    unique: Count = Field(
        0, ge=0, description="Train on a fixed subset of so many tokens (or images), repeated; 0: on all."
    )
    sequence_length: Count = Field(512, ge=8, description="Input positions of an example, in tokens.")
    noise_density: float = Field(
        0.15, gt=0, lt=1, description="Share of tokens that is masked (t5, encoder)."
    )
    mean_span_length: float = Field(3.0, ge=1, description="Mean length of a masked span, in tokens.")
    evaluation_batches: Count = Field(20, ge=1, description="Fixed held-out batches of every evaluation.")
    evaluation_batch_size: Count = Field(0, ge=0, description="Examples of each; 0: the training batch size.")
    then: ThenSpec | None = Field(None, description="Another source from some step on.")


class PruningSpec(Part):
    """How weights are removed. `start` and `end` are shares of the run's steps."""

    method: Annotated[str, OneOf(tuple(METHODS))] = Field(
        "gmp", description="gmp is gradual magnitude pruning with the cubic schedule, the paper's."
    )
    pattern: str = Field(
        "unstructured",
        description="unstructured; n:m such as 2:4; block:AxB (A outputs by B inputs); channel (heads, features).",
    )
    distribution: Annotated[str, OneOf(tuple(DISTRIBUTIONS))] = Field(
        "uniform", description="Sparsity over the layers; uniform is the paper's."
    )
    start: float = Field(
        0.25, ge=0, le=1, description="First pruning step, share of all steps; gmp's is 0.25."
    )
    end: float = Field(0.75, ge=0, le=1, description="Last pruning step, share of all steps; gmp's is 0.75.")
    every: Period = Field(
        100,
        gt=0,
        description="Steps between two mask updates; below 1: a share of the run's steps. acdc's phases: 0.01; imp's "
        "rounds decide theirs.",
    )
    rounds: Count = Field(
        3, ge=1, description="Prunings of imp; each goes back to `start` and trains to the round's end again."
    )

    @model_validator(mode="before")
    @classmethod
    def _window(cls, value: Any) -> Any:
        """Each method has its own window (paper: AC/DC and RigL begin and end elsewhere than gradual pruning)."""
        if not isinstance(value, dict) or value.get("method", "gmp") not in METHODS:
            return value
        method = method_for(value.get("method", "gmp"))
        start, end = method.window
        if method.rewinds and value.get("end", end) != end:
            raise ValueError("imp ends by its rounds: leave `end` out, and set `start` and `rounds`")
        return {"start": start, "end": end, "every": method.period, **value}

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str) -> str:
        parsed(value)
        return value


class LearningRateSpec(Part):
    """Relative step size over steps."""

    schedule: Literal["rsqrt", "cosine", "constant"] = Field(
        "rsqrt", description="rsqrt does not depend on the run's length, so runs share their trunks."
    )
    base: float = Field(1.0, gt=0, description="Multiplies the schedule: base / sqrt(max(step, warmup)).")
    warmup: Count = Field(10_000, ge=1, description="Steps before the decay begins.")
    linear_warmup: bool = Field(
        False,
        description="rsqrt: rise linearly over the warm-up (the paper's ViT), not level (T5). Others always rise.",
    )
    cooldown: Count = Field(0, ge=0, description="Last steps over which rsqrt falls to zero; 0: none.")


class TrainingSpec(Part):
    """The optimiser and its surroundings."""

    batch_size: Count = Field(128, ge=1, description="Examples a step.")
    micro_batch: Count = Field(
        0,
        ge=0,
        description="Examples of one forward pass, a divisor of batch_size: saves memory; 0: all at once.",
    )
    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] = Field(
        "adafactor",
        description="adafactor is the paper's for T5, sparsity-aware; adafactor-vit its ViTs', with momentum; adamw.",
    )
    factored: bool = Field(
        False,
        description="Second moments of either adafactor as one number a row and a column, not one a weight.",
    )
    weight_decay: float = Field(
        0.0, ge=0, description="Decoupled weight decay, times the learning rate (adamw, adafactor-vit)."
    )
    clip_norm: float = Field(0.0, ge=0, description="Gradient clipping by global norm; 0: none.")
    learning_rate: LearningRateSpec = LearningRateSpec()  # type: ignore[call-arg]
    precision: Annotated[str, OneOf(PRECISIONS)] = Field(
        "float32", description="Arithmetic of the forward pass; weights and moments are always float32."
    )
    z_loss: float = Field(1e-4, ge=0, description="Weight of log(Z)² in the training loss.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a target spread over all classes.")


class GridSpec(BaseModel):
    """The axes of the sweep. Scalars of `model`, `data`, `pruning` and `training` may be axes too."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    nonzero_params: Annotated[list[Annotated[float, Field(gt=0)]], BeforeValidator(_as_list)] = Field(
        [],
        description="Non-zero parameters N of the pruned model; left out where `start_from` brings a shape.",
    )
    sparsity: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], BeforeValidator(_as_list)] = Field(
        min_length=1, description="Share of the weights that end at zero, in [0, 1)."
    )
    steps: Annotated[list[Annotated[Count, Field(ge=1)]], BeforeValidator(_as_list)] = Field(
        min_length=1, description="Training lengths, in steps."
    )
    seed: Annotated[list[Annotated[Count, Field(ge=0)]], BeforeValidator(_as_list)] = Field(
        [0], min_length=1, description="Seeds of initialisation and batches."
    )
    extra: list[dict[str, Any]] = Field([], description="Cells beside the product of the axes.")
    exclude: list[dict[str, Any]] = Field([], description="Cells to leave out: all that match every value.")

    def axes(self) -> dict[str, list[Any]]:
        """Every axis by name, explicit ones first."""
        named = {name: getattr(self, name) for name in ("nonzero_params", "sparsity", "steps", "seed")}
        if not self.nonzero_params:
            del named["nonzero_params"]
        return {**named, **{name: _as_list(values) for name, values in (self.model_extra or {}).items()}}


class ExecutionSpec(Part):
    """Where and how carefully the sweep runs. Nothing here changes a result, but for last bits that `device` decides,
    and `devices_per_run` on xla: they are part of a run's key there."""

    pool: str = Field("local", description="Node pool; `local` is this machine.")
    max_concurrent: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="Runs at a time; default: one a core (or device)."
    )
    checkpoint_every: Count = Field(10_000, ge=0, description="Steps between two checkpoints; 0: ends only.")
    evaluate_every: Count = Field(0, ge=0, description="Steps between two evaluations; 0: ends only.")
    log_every: Count = Field(100, ge=1, description="Steps between two metric points.")
    attempts: Count = Field(3, ge=1, description="Tries of a segment that fails. Preemption does not count.")
    priority: Count = Field(
        0,
        ge=-1000,
        le=1000,
        description="Sweeps of a higher priority are served first, though nothing that runs is interrupted; equal ones "
        "take turns.",
    )
    pack: Literal["auto"] | Annotated[Count, Field(ge=1, le=64)] = Field(
        "auto",
        description="Segments that are trained as one where they differ in masks, rates or seeds only: as many as pays "
        "(auto; on a CPU only where no bit changes), at most so many, or 1: none.",
    )
    device: Literal["cpu", "cuda", "xla"] = Field("cpu", description="Kind of device the sweep runs on.")
    devices_per_run: Count = Field(
        1,
        ge=1,
        description="Devices that train one run together: GPUs (cuda), cores (cpu; a process each), or all chips of "
        "the pool's TPU slice (xla). On cuda and cpu `training.micro_batch` is at most batch_size over it.",
    )
    strategy: Literal["grid", "adaptive"] = Field(
        "grid",
        description="grid trains every cell; adaptive those that teach most per FLOP, one after the other.",
    )
    budget_flops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Adaptive: training FLOPs that may be spent (dense accounting, shared trunks once)."
    )
    wanted_interval: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Adaptive: stop once the law's interval on the loss of the grid's cells is ± this share of it.",
    )

    @property
    def device_type(self) -> str:
        """The trainer's name of the device: part of a run's key. On cpu and cuda a run has the same bits however many
        processes share it (`trainer.ranks`); on xla the compiler sums in another order for each number of chips.
        """
        return (
            f"xla:{self.devices_per_run}"
            if self.device == "xla" and self.devices_per_run > 1
            else self.device
        )

    @model_validator(mode="after")
    def _adaptive_ends(self) -> ExecutionSpec:
        limits = [name for name in ("budget_flops", "wanted_interval") if getattr(self, name) is not None]
        if self.strategy == "adaptive" and not limits:
            raise ValueError(
                "strategy adaptive needs budget_flops, wanted_interval or both: it must end somewhere"
            )
        if self.strategy == "grid" and limits:
            raise ValueError(f"{' and '.join(limits)} mean something only with strategy: adaptive")
        return self


class ObjectiveSpec(Part):
    """What the fit minimises (paper, section 3.1)."""

    residual: Literal["log", "raw"] = Field("log", description="log L̂ − log L, or L̂ − L.")
    huber_delta: float = Field(1e-3, gt=0, description="Where the Huber loss turns from square to linear.")


class LawSpec(Part):
    """The scaling law that is fitted whenever runs complete."""

    form: Annotated[str, OneOf(tuple(REGISTRY))] = Field(
        "sparsity", description="Law form; sparsity is the paper's."
    )
    objective: ObjectiveSpec = ObjectiveSpec()  # type: ignore[call-arg]
    level: float = Field(0.9, gt=0, lt=1, description="Level of all intervals.")
    params: Literal["nominal", "linear"] = Field(
        "nominal",
        description="What N counts: the paper's nominal formula, or the non-zero linear weights as trained.",
    )


class Spec(Part):
    """One sweep, as its YAML file says it, with every default written out."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", description="Name of the sweep.")
    model: ModelSpec
    data: DataSpec
    grid: GridSpec
    pruning: PruningSpec = PruningSpec()  # type: ignore[call-arg]
    training: TrainingSpec = TrainingSpec()  # type: ignore[call-arg]
    execution: ExecutionSpec = ExecutionSpec()  # type: ignore[call-arg]
    law: LawSpec = LawSpec()  # type: ignore[call-arg]

    @cached_property
    def found(self) -> tuple[list[Cell], list[Problem]]:
        """Its cells, and what is wrong with them: `orchestrator.spec.cells.cells` says it once, for whoever checks,
        plans or shows the spec."""
        from orchestrator.spec.cells import find  # whose cells are made of the parts above

        return find(self)

    def canonical(self) -> dict[str, Any]:
        """The whole spec as plain JSON values, defaults included."""
        return self.model_dump(mode="json")
