"""A run in memory: network, optimiser, masks and batches of one program, at a step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer import families, models, pretrained
from trainer.checkpoint import State
from trainer.data.feed import Feed
from trainer.data.prepared import Prepared
from trainer.devices import Device
from trainer.errors import CheckpointError, DataError, TrainerError
from trainer.flat import FlatParameters
from trainer.group import Group
from trainer.models import Loss, Network
from trainer.program import Program, Pruning, first_update
from trainer.pruning import rounds
from trainer.pruning.pruner import Pruner
from trainer.ranks import ALONE, Ranks
from trainer.schedule import learning_rate

log = logging.getLogger(__name__)


def forward_of(network: Network, program: Program, device: Device) -> Callable[[Mapping[str, Tensor]], Loss]:
    """The network's loss of a batch in the program's precision, compiled where that pays."""
    # bf16 is for products; weights, their moments and all sums over them stay float32.
    bf16 = program.numerics.precision == "bf16"

    def loss(batch: Mapping[str, Tensor]) -> Loss:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return network.loss(batch)

    compiled = device.compile(loss)
    if compiled is loss:
        return loss
    made = False

    def whole(batch: Mapping[str, Tensor]) -> Loss:
        nonlocal made
        if not made:
            # Tables that depend on lengths alone are made at the first pass: it is not the one that is compiled, or
            # the next would find them there, and be compiled again.
            with torch.no_grad():
                loss(batch)
            made = True
        train, reported = compiled(batch)
        # A pass that is recorded as a CUDA graph writes where it wrote before, and losses are kept past the next one.
        return Loss(train, reported.clone())

    return whole


def in_parts(batch: Mapping[str, Tensor], size: int, axis: int = 0) -> Iterator[dict[str, Tensor]]:
    """A batch cut along the axis of its examples; the last part may be smaller."""
    for begin in range(0, next(iter(batch.values())).shape[axis], size):
        yield {
            name: value.narrow(axis, begin, min(size, value.shape[axis] - begin))
            for name, value in batch.items()
        }


class Run:
    """One program on one device. Raises DataError where data and program do not fit together.

    then: the data to which the program switches, if it does.
    ranks: the processes that train it together, each on its share of every batch; its state is the same in all.
    """

    def __init__(
        self,
        program: Program,
        prepared: Prepared,
        device: Device,
        *,
        then: Prepared | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        rules = families.rules(program.family)
        for data in (prepared, then):
            if data is not None and (reason := rules.mismatch(program.shape, data.manifest)) is not None:
                raise DataError(reason)
        device.prepare()
        self.program = program
        self.device = device
        self._ranks = ranks
        self.batches = Feed(program, prepared, then)
        self._network = models.build(
            program.family,
            program.shape,
            program.seed,
            z_loss=program.numerics.z_loss,
            smoothing=program.numerics.label_smoothing,
        )
        device.move(self._network.module)
        self._parameters = FlatParameters(self._network.module)
        #: Those with which this process shares batches: nobody where the device does that.
        self._sharing = ALONE if device.spreads else ranks
        self._tensors = list(self._parameters.parameters.values())
        self.pruner = Pruner(program, self._parameters)
        self._prepared = prepared
        self._point: dict[str, Tensor] | None = None  # the state to which later rounds of `imp` go back
        self._tracer: Run | None = None
        self._part = program.numerics.micro_batch or program.batch_size
        self._shrunk = False
        self._batch = device.feed(
            lambda step: self._sharing.share(self.batches.train(step), self._part), program.steps
        )
        self._forward = forward_of(self._network, program, device)
        self.step = 0
        self._group: Group | None = None
        Group([self], self._sharing)
        device.end_part()  # so that the first step's program is that of every other

    def begin(self) -> None:
        """Become the state at step 0 where that is not the seed's: the weights of a checkpoint, moments all zero.

        Raises PretrainedError where they are gone, changed or misshapen.
        """
        start, program = self.program.start, self.program
        if start.digest:
            weights = pretrained.load(start, program.family, program.shape)
            self._copy(self._parameters.views, weights, start.url)

    def advance(self) -> Tensor:
        """One step: batch, gradient, optimiser, masks. The training batch's cross-entropy [], nats per target.

        It is still on its way where the device works asynchronously: reading it waits. A run that was in a pack leaves
        it by this.
        """
        if self.group.parameters.members > 1:
            Group([self], self._sharing)
        batch = self.batch()
        with self.training():
            self.device.end_part()
            reported = self.group.accumulate(self._forward, self._tensors, self._parts(batch))
        self.group.update([self])
        return reported

    @property
    def group(self) -> Group:
        """The runs whose updates are computed with this one's: it alone, or a pack."""
        assert self._group is not None  # it has been in one since it was made
        return self._group

    def join(self, group: Group, place: int) -> None:
        """Have updates computed with those of that group from now on, as its member of that place."""
        before = self._moments() if self._group is not None else {}
        self._group, self._place = group, place
        for name, view in self._moments().items() if before else ():
            view.copy_(before[name])

    def stepped(self) -> None:
        """The group has moved this run by a step."""
        self.step += 1
        if not self._ranks.alone and (renewed := self.pruner.renewed(self.step)):
            masks = self._fetched(renewed)
            self._ranks.agree(self.step, {f"the mask of {name}": mask for name, mask in masks.items()})

    @property
    def micro_batch(self) -> int:
        """Examples of one forward pass."""
        return self._part

    def shrink(self) -> bool:
        """Compute passes over fewer examples at a time from now on: half as many, or the next smaller divisor of the
        batch. False where that cannot be. Sums are taken in another order then: all is the same within rounding.
        """
        batch = self.program.batch_size
        smaller = [size for size in range(1, self._part // 2 + 1) if batch % size == 0]
        if not smaller or not self._ranks.alone:  # several processes would have to agree
            return False
        self._part, self._shrunk = smaller[-1], True
        self.group.gradient.restart()
        log.warning("out of memory at step %d: from now on %d examples at a time", self.step, self._part)
        return True

    def batch(self) -> dict[str, Tensor]:
        """The next step's batch, on the device."""
        return self._batch(self.clock)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, the weights are as the forward pass of the next step sees them."""
        with torch.no_grad():
            self._begin_step()
        with self.seen(self.step):
            yield

    def seen(self, step: int) -> AbstractContextManager[None]:
        """Inside, the weights are as the forward pass of `step` sees them."""
        return self.pruner.seen(step, self.group.optimizer.spare[self._place])

    @property
    def parameters(self) -> FlatParameters:
        """The weights; to be read only, between steps."""
        return self._parameters

    def learning_rate(self) -> float:
        """The relative step size of the next step."""
        program = self.program
        return learning_rate(
            program.learning_rate, self.clock, rounds.horizon(program.pruning, program.steps)
        )

    @property
    def clock(self) -> int:
        """The step whose batch, learning rate and optimiser constants the next step has: in rounds, they repeat."""
        return rounds.clock(self.program.pruning, self.step)

    def retrace(self) -> bool:
        """One step of work that must come before the next step can; False where there is none.

        Where a round of `imp` is about to begin and this process has not passed the point to which it goes back, the
        dense run up to there is done again, step by step, so that a caller may stop between.
        """
        pruning = self.program.pruning
        if self._point is not None or not rounds.begins(pruning, self.step):
            return False
        if self._tracer is None:
            dense = replace(
                self.program, pruning=Pruning(), steps=rounds.horizon(pruning, self.program.steps)
            )
            self._tracer = Run(dense, self._prepared, self.device, ranks=self._ranks)
            self._tracer.begin()
            while self._tracer.micro_batch > self._part:
                self._tracer.shrink()
        if self._tracer.step < pruning.start:
            try:
                self._tracer.advance()
            except Exception:
                self._tracer = None  # half a step is not gone on from
                raise
            return True
        self._point, self._tracer = self._tracer.snapshot(), None
        return False

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of weights and optimiser state on the device."""
        return {name: view.clone() for name, view in self._rewound().items()}

    def _begin_step(self) -> None:
        pruning = self.program.pruning
        self.pruner.before_step(self.step)
        if self.step == pruning.start and rounds.rewinds(pruning):
            self._point = self.snapshot()
        if rounds.begins(pruning, self.step):
            if self._point is None:
                raise TrainerError(f"step {self.step} goes back to step {pruning.start}: retrace that first")
            for name, view in self._rewound().items():
                view.copy_(self._point[name])
            self.pruner.apply()
            if self.step == pruning.end:
                self._point = None

    def _rewound(self) -> dict[str, Tensor]:
        return {f"weights/{name}": view for name, view in self._parameters.views.items()} | self._moments()

    def _point_is_state(self, step: int) -> bool:
        # Before the first pruning the state is a dense run's; after the last nothing goes back any more.
        pruning = self.program.pruning
        return rounds.rewinds(pruning) and first_update(pruning) < step <= pruning.end

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean cross-entropy over the fixed held-out batches, nats per target, without z-loss."""
        count, ranks = self.batches.evaluation_batches, self._sharing
        with self.seen(self.step - 1):
            losses = []
            # Each process takes its turn; where they do not come out even, some compute a batch that does not count.
            for first in range(0, count, ranks.count):
                index = min(first + ranks.rank, count - 1)
                losses.append(self._held_out(index))
                self.device.end_part()
        return float(sum(ranks.in_turn(torch.stack(losses))[:count].tolist())) / count

    def _held_out(self, index: int) -> Tensor:
        """The cross-entropy [] of a held-out batch; where memory is short, by parts, weighted by their examples."""
        batch = self.device.place(self.batches.validation(self.step, index))
        if not self._shrunk:
            return self._forward(batch).reported
        total, examples = self._parameters.data.new_zeros(()), 0
        for part in self._parts(batch):
            size = len(next(iter(part.values())))
            total += self._forward(part).reported * size
            examples += size
        return total / examples

    def _parts(self, batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """A batch in parts of `micro_batch` examples; the last may be smaller."""
        return in_parts(batch, self._part)

    @property
    def guessing(self) -> float:
        """The loss of guessing, nats: a run far above it is lost."""
        return float(families.rules(self.program.family).guessing(self.program.shape))

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return bool(torch.isfinite(self._parameters.data).all())

    @torch.no_grad()
    def counts(self) -> dict[str, tuple[int, int]]:
        """Every prunable weight → (exact non-zeros as the forward pass sees them, all)."""
        with self.seen(self.step - 1):
            found = torch.stack(
                [torch.count_nonzero(self._parameters.views[layer.name]) for layer in self.pruner.layers]
            ).tolist()
        return {
            layer.name: (count, layer.size) for layer, count in zip(self.pruner.layers, found, strict=True)
        }

    def state(self) -> State:
        """A copy of everything that determines the rest of the run."""
        point: dict[str, Tensor] = {}
        if self._point is not None and self._point_is_state(self.step):
            point = {f"rewind/{name}": tensor for name, tensor in self._point.items()}
        return State(
            self.step,
            self._fetched(self._parameters.views),
            self._fetched({**self._moments(), **point}),
            self._fetched(self.pruner.masks()),
        )

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{kind}/{name}": view
            for kind, views in self.group.optimizer.state(self._place).items()
            for name, view in views.items()
        }

    def _fetched(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        return dict(zip(tensors, self.device.fetch(list(tensors.values())), strict=True))

    def load(self, state: State, source: str) -> None:
        """Become `state`. Raises CheckpointError naming `source` where a tensor is missing or has another shape."""
        moments = self._moments()
        if self._point_is_state(state.step):
            self._point = self.snapshot()
            moments |= {f"rewind/{name}": tensor for name, tensor in self._point.items()}
        self._copy(self._parameters.views, state.weights, source)
        self._copy(moments, state.moments, source)
        self.pruner.load({name: torch.from_numpy(mask) for name, mask in state.masks.items()})
        self.step = state.step

    @staticmethod
    @torch.no_grad()
    def _copy(views: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]], source: str) -> None:
        for name, view in views.items():
            found = arrays.get(name)
            if found is None or found.shape != tuple(view.shape):
                shape = None if found is None else found.shape
                raise CheckpointError(f"{source} has {name} of shape {shape}, {tuple(view.shape)} is needed")
            view.copy_(torch.from_numpy(found))
