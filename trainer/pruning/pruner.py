"""Carries a pruning method out: holds the masks of one run and keeps pruned weights at zero."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer import families
from trainer.flat import FlatParameters
from trainer.program import Program, first_update
from trainer.pruning.distributions import DISTRIBUTIONS
from trainer.pruning.held import Held, zero
from trainer.pruning.mask import keep_count, keep_highest
from trainer.pruning.methods import Action, Draw, Exchange, Rank, Release, method_for
from trainer.pruning.patterns import pattern_for, unit_sizes

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A prunable weight. target: its final sparsity; linear: counted in the law's N (neither embedding nor logits).

    unit: weights that its pattern keeps or prunes together; sparsity is counted in whole units.
    """

    name: str
    size: int
    target: float
    linear: bool
    unit: int = 1

    def keep(self, level: float = 1.0) -> int:
        """How many weights stay at `level` times the target sparsity."""
        return self.unit * keep_count(self.size // self.unit, self.target * level)


def layers_of(parameters: FlatParameters, program: Program) -> list[Layer]:
    """The prunable weights with their targets: linear layers by the distribution, embeddings and logits 1 − √(1 − S).

    The latter shrink with the width, not with its square (RECIPE section 4).
    """
    pruning, rules = program.pruning, families.rules(program.family)
    shapes = {
        name: tuple(weight.shape)
        for name, weight in parameters.parameters.items()
        if rules.prunable(name, weight.dim())
    }
    linear = {name: shape for name, shape in shapes.items() if not rules.shrinks_with_width(name)}
    targets = DISTRIBUTIONS[pruning.distribution](linear, pruning.sparsity)
    narrow = 1.0 - math.sqrt(1.0 - pruning.sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    units = unit_sizes(
        pruning.pattern, {name: sizes[name] for name in linear}, rules.structures(program.shape)
    )
    return [
        Layer(name, sizes[name], targets.get(name, narrow), name in linear, units.get(name, 1))
        for name in shapes
    ]


class _Scores(Mapping[str, Tensor]):
    """Scores by layer, computed when they are asked for: all at once they would be a copy of the model."""

    def __init__(self, layers: Sequence[Layer], make: Callable[[Layer], Tensor]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        return self._make(self._layers[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


class Pruner:
    """Masks over the flat parameters; none exist while the run is dense, which then pays nothing.

    Per step: `before_step`, then the forward pass inside `seen`, `observe` with the gradient, the optimiser, `apply` of
    the `Held` that it joined, and `after_step`. mask_seconds: wall time spent on computing masks so far in this
    process; updates: how many times.
    """

    def __init__(self, program: Program, parameters: FlatParameters) -> None:
        pruning = program.pruning
        self._pruning = pruning
        self._method = method_for(pruning.method) if pruning.sparsity > 0 else None
        self._pattern = pattern_for(pruning.pattern, families.rules(program.family).structures(program.shape))
        self._first = first_update(pruning)
        self.layers = layers_of(parameters, program)
        self._parameters = parameters
        self._seed = program.seed
        self._pruned: Tensor | None = None  # flat, True where a weight is held at zero
        # Where masks that are state lie, and which row is this run's.
        self._held: tuple[Held, int] | None = None
        self._gradients: Masks = {}
        self.mask_seconds = 0.0
        self.updates = 0
        self._compared = 0  # of the updates, those that `renewed` was asked about

    def join(self, held: Held, member: int) -> None:
        """Keep the masks in that row from now on, beside those of runs whose updates are computed with this one's."""
        if self._is_through:
            return
        before, self._held = self._pruned, (held, member)
        if before is not None:
            self._pruned = held.take(member).copy_(before)

    def before_step(self, step: int) -> None:
        """The method's action before the forward pass of `step`; weights that it prunes become zero."""
        if self._method is not None and (action := self._method.before(self._pruning, step)) is not None:
            self._act(action, step)
            self.apply()

    @contextmanager
    def seen(self, step: int, spare: Tensor) -> Iterator[None]:
        """Inside, the weights are as the forward pass of `step` sees them: masked, under a straight-through method.

        spare: a buffer like the weights that nobody else uses meanwhile; the dense ones wait in it.
        """
        if self._method is None or not self._method.through or step < self._first:
            yield
            return
        self._act(Rank(self._method.level(self._pruning, step)), step)
        spare.copy_(self._parameters.data)
        self.apply()
        try:
            yield
        finally:
            self._parameters.data.copy_(spare)

    def observe(self, step: int, gradient: Tensor) -> None:
        """Before the optimiser takes the flat gradient: ranks are taken, SR-STE adds its decay, RigL notes scores.

        As in the paper's code, a ranking of step t looks at the weights from before the update of step t, where
        pruned weights are zero: they do not come back. Its mask is applied after the update.
        """
        if self._method is None or step < self._first:
            return
        if self._method.decay and self._pruned is not None:
            gradient.add_(self._parameters.data * self._pruned, alpha=self._method.decay)
        action = self._method.update(self._pruning, step)
        if isinstance(action, Rank):
            self._act(action, step)
        if isinstance(action, Exchange) and action.by == "gradient":
            views = self._parameters.view_of(gradient)
            self._gradients = {layer.name: views[layer.name].abs() for layer in self.layers}

    def after_step(self, step: int) -> Masks:
        """After the optimiser's update of `step` and `Held.apply`: weights are exchanged.

        Name → mask of the weights that were grown by an exchange: their optimiser state must become zero.
        """
        if self._method is None or self._method.through:
            return {}
        action = self._method.update(self._pruning, step)
        if not isinstance(action, Exchange):
            return {}
        grown = self._act(action, step)
        self.apply()
        return grown

    def masks(self) -> Masks:
        """Name → mask of kept weights, as far as it is state: none while dense, and none under straight-through."""
        return {} if self._pruned is None or self._is_through else self._kept()

    def renewed(self, step: int) -> Masks:
        """Name → mask of kept weights, where they were computed anew since this was asked last; for processes that
        train together to compare. Straight-through ones are computed for every forward pass: every `every` steps.
        """
        if self.updates == self._compared:
            return {}
        self._compared = self.updates
        if self._pruned is None or (self._is_through and step % self._pruning.every):
            return {}
        return self._kept()

    @property
    def _is_through(self) -> bool:
        """Whether the masks are made anew for each forward pass, and no state."""
        return self._method is not None and self._method.through

    def load(self, masks: Masks) -> None:
        """Take masks over, from an update or a checkpoint; without any, all weights live."""
        if not masks:
            if self._pruned is not None and self._held is not None:
                held, member = self._held
                held.release(member)
            self._pruned = None
            return
        if self._pruned is None:
            self._pruned = self._flags()
        views = self._parameters.view_of(self._pruned)
        for name, mask in masks.items():
            views[name].copy_(~mask)

    def _flags(self) -> Tensor:
        if self._held is None:
            return self._parameters.zeros(torch.bool)
        held, member = self._held
        return held.take(member)

    def density(self) -> float:
        """The share of linear weights that the last forward pass or update kept."""
        if self._pruned is None:
            return 1.0
        kept = self._counted()
        linear = [layer for layer in self.layers if layer.linear]
        return sum(kept[layer.name] for layer in linear) / sum(layer.size for layer in linear)

    def missed(self) -> list[str]:
        """Layers whose mask does not keep exactly what the target says; under `global`, the sum over all counts."""
        if self._method is None:
            return []
        kept = self._counted()
        wanted = {layer.name: layer.keep() for layer in self.layers}
        if self._pruning.distribution == "global":
            linear = [layer.name for layer in self.layers if layer.linear]
            kept["all linear layers"] = sum(kept.pop(name) for name in linear)
            wanted["all linear layers"] = sum(wanted.pop(name) for name in linear)
        return [
            f"{name} keeps {kept[name]}, not {wanted[name]}" for name in wanted if kept[name] != wanted[name]
        ]

    def _kept(self) -> Masks:
        flat = self._parameters.zeros(torch.bool) if self._pruned is None else self._pruned
        views = self._parameters.view_of(flat)
        return {layer.name: ~views[layer.name] for layer in self.layers}

    def _counted(self) -> dict[str, int]:
        """Name → how many weights its mask keeps, in one reading of the device."""
        kept = self._kept()
        return dict(zip(kept, torch.stack([mask.sum() for mask in kept.values()]).tolist(), strict=True))

    def apply(self) -> None:
        """Pruned weights become zero."""
        if self._pruned is not None:
            zero(self._parameters.data, self._pruned)

    def _act(self, action: Action, step: int) -> Masks:
        begin = time.perf_counter()
        grown: Masks = {}
        if isinstance(action, Rank):
            self.load(self._ranked(action.level))
        elif isinstance(action, Draw):
            self.load(self._chosen(_Scores(self.layers, lambda layer: self._random(layer, step))))
        elif isinstance(action, Release):
            self.load({})
        else:
            grown = self._exchanged(action, step)
        self.mask_seconds += time.perf_counter() - begin
        self.updates += 1
        return grown

    def _ranked(self, level: float) -> Masks:
        scores = _Scores(self.layers, lambda layer: self._parameters.views[layer.name].abs())
        if self._pruning.distribution != "global":
            return self._chosen(scores, level)
        linear = [layer for layer in self.layers if layer.linear]
        joined = torch.cat([self._parameters.views[layer.name].flatten() for layer in linear]).abs_()
        mask = keep_highest(joined, sum(layer.keep(level) for layer in linear))
        parts = torch.split(mask, [layer.size for layer in linear])
        masks = {
            layer.name: part.view(self._parameters.views[layer.name].shape)
            for layer, part in zip(linear, parts, strict=True)
        }
        return {**masks, **self._unstructured(scores, level)}

    def _chosen(self, scores: Mapping[str, Tensor], level: float = 1.0) -> Masks:
        masks = self._pattern(
            scores, {layer.name: layer.keep(level) for layer in self.layers if layer.linear}
        )
        return {**masks, **self._unstructured(scores, level)}

    def _unstructured(self, scores: Mapping[str, Tensor], level: float) -> Masks:
        # A pattern speaks of what a linear layer sums over; embeddings and logits have another sparsity.
        rest = [layer for layer in self.layers if not layer.linear]
        return {layer.name: keep_highest(scores[layer.name], layer.keep(level)) for layer in rest}

    def _exchanged(self, action: Exchange, step: int) -> Masks:
        before = self.masks()
        after: Masks = {}
        for layer in self.layers:
            weight, mask = self._parameters.views[layer.name], before[layer.name]
            keep = layer.keep()
            scores = torch.where(mask, weight.abs(), -1.0)
            staying = keep - round(action.share * keep)
            survivors = keep_highest(scores, staying)
            growth = self._gradients[layer.name] if action.by == "gradient" else self._random(layer, step)
            after[layer.name] = survivors | keep_highest(torch.where(survivors, -1.0, growth), keep - staying)
        self._gradients = {}
        self.load(after)
        return {name: mask & ~before[name] for name, mask in after.items()}

    def _random(self, layer: Layer, step: int) -> Tensor:
        """Scores in [0, 1) that depend on nothing but seed, layer and step."""
        key = hashlib.sha256(f"{self._seed}:{layer.name}:{step}:mask".encode()).digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(key, "big", signed=True))
        weight = self._parameters.views[layer.name]
        # From pinned memory a copy to a GPU is waited for by nobody.
        scores = torch.rand(weight.shape, generator=generator, pin_memory=weight.is_cuda)
        return scores.to(weight.device, non_blocking=True)
