"""One segment on its way, whoever computes its steps: what is checked, reported and published between them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trainer import checkpoint, families, storage
from trainer.data.prepared import Prepared
from trainer.devices import Device
from trainer.errors import CheckpointError, Diverged, Stopped, TrainerError
from trainer.losses import Losses
from trainer.metrics import MetricSink, NoSink
from trainer.program import Program, ProgramError
from trainer.pruning.density import densities
from trainer.ranks import ALONE, Ranks, check_share
from trainer.result import SegmentResult
from trainer.run import Run

#: A loss above so many times that of guessing uniformly means the run is lost: no method of pruning costs as much.
_LOST = 4.0

#: States within a segment that are kept while newer ones are written: should the last be damaged, one more is there.
_KEPT = 2


#: Seconds for which the state at a segment's end is tried to be written, and those before the second try; each further
#: one waits twice as long.
PATIENCE_SECONDS = 600.0
FIRST_PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)


def never() -> bool:
    """Does not ask to stop."""
    return False


@dataclass(frozen=True, kw_only=True)
class Order:
    """A segment to train: steps [start, end) of `program`. Every field as `trainer.segment.train_segment` has it."""

    program: Program
    start: int
    end: int
    data: Path
    parent: str | None
    output: str
    sink: MetricSink
    checkpoint_every: int = 0
    resume_from: str | None = None
    on_checkpoint: Callable[[str, int], bool | None] | None = None
    should_stop: Callable[[], bool] = never
    evaluate_every: int = 0
    log_every: int = 10
    halvings: int = 0

    def check(self) -> None:
        """Raises ProgramError on a range that the program does not have, or a parent that does not go with it."""
        if not 0 <= self.start < self.end <= self.program.steps:
            raise ProgramError(
                f"a segment from step {self.start} to {self.end} does not fit into {self.program.steps} steps"
            )
        if (self.parent is None) != (self.start == 0):
            raise ProgramError(
                f"a segment that starts at step {self.start} {'needs a' if self.start else 'has no'} parent"
            )


class Course:
    """A run between the two ends of an order. Raises what `train_segment` raises before its first step."""

    def __init__(
        self,
        order: Order,
        prepared: Prepared,
        device: Device,
        *,
        then: Prepared | None,
        ranks: Ranks = ALONE,
    ) -> None:
        order.check()
        check_share(order.program, ranks.count)
        self.order = order
        self.run = Run(order.program, prepared, device, then=then, ranks=ranks)
        for _ in range(order.halvings):
            self.run.shrink()
        self._ranks = ranks
        self._sink = order.sink if ranks.speaks else NoSink()
        self._restore()
        if not ranks.alone:
            self._state()
        self._begin = self.run.step
        self._losses = Losses(self._check)
        self._published: list[str] = []
        self._noted: str | None = None
        """The newest state that the caller has noted: others would go on from there."""
        self._seconds = 0.0
        self._lap = (self._begin, 0.0)

    @property
    def over(self) -> bool:
        """Whether the last step is done."""
        return self.run.step == self.order.end

    @property
    def asked_to_stop(self) -> bool:
        """Whether the caller of any process of the run asks to stop."""
        return self._ranks.any(self.order.should_stop())

    def stop(self) -> None:
        """Publish the state where it stands. Raises Stopped."""
        raise Stopped(self.run.step, self._publish())

    def stepped(self, rate: float, loss: Tensor, seconds: float) -> None:
        """A step was done at this learning rate, with this loss [], its share of the time being so long. Raises
        Diverged.
        """
        order, run = self.order, self.run
        self._seconds += seconds
        self._losses.note(run.step, loss)
        if len(self._losses) >= run.device.read_every:
            self._losses.read()
        if self.over or (order.log_every and run.step % order.log_every == 0):
            self._sink.point(run.step, "loss", self._losses.read())
            self._sink.point(run.step, "learning_rate", rate)
            self._sink.point(run.step, "sparsity", 1.0 - run.pruner.density())
            speed = (run.step - self._lap[0]) / max(self._seconds - self._lap[1], 1e-9)
            self._lap = (run.step, self._seconds)
            self._sink.point(run.step, "steps_per_second", speed)
            self._sink.point(run.step, "tokens_per_second", speed * run.batches.tokens_per_batch)

    @property
    def wants_evaluation(self) -> bool:
        """Whether the validation loss is due at this step."""
        every = self.order.evaluate_every
        return self.over or bool(every and self.run.step % every == 0)

    def evaluated(self, loss: float) -> None:
        """Take the validation loss at this step. Raises Diverged."""
        run = self.run
        self._sink.point(run.step, "validation_loss", loss)
        # Where activations overflow, norms turn them into zeros: the loss is then log V exactly, and stays there.
        if not run.is_finite() or math.isclose(loss, run.guessing, rel_tol=1e-6):
            raise Diverged(run.step, loss)
        self._check(run.step, loss)

    def between(self) -> None:
        """What is due before the next step: a checkpoint. Where it cannot be written, training goes on: the next one
        may be, and a kill before that would cost a little more."""
        every = self.order.checkpoint_every
        if every and self.run.step % every == 0:
            try:
                self._publish()
            except OSError as error:
                log.warning("no checkpoint at step %d, going on: %s", self.run.step, error)
                return
            for url in [url for url in self._published[:-_KEPT] if url != self._noted]:
                self._published.remove(url)
                if self._ranks.speaks:
                    storage.discard(url)

    def finish(self, loss: float, members: int) -> SegmentResult:
        """Publish the state at the end. loss: the validation loss there. members: of the pack that it was trained in.

        Raises TrainerError where the target sparsity was missed, OSError where the state could not be written for
        PATIENCE_SECONDS.
        """
        url, steps = self._publish(PATIENCE_SECONDS), self.run.step - self._begin
        return _result(self.run, self.order.start, loss, url, self._seconds, steps, members)

    def _check(self, step: int, loss: float) -> None:
        if not loss <= _LOST * self.run.guessing:
            raise Diverged(step, loss)

    def _publish(self, patience: float = 0.0) -> str:
        """Write the state where it stands, and tell of it; for so many seconds again where it cannot be written."""
        self._losses.read()  # what a lost run left behind is no state to go on from
        url = checkpoint.url_of(self.order.output, self.run.step)
        state, program = self._state(), self.order.program
        if self.run.step == program.steps and (missed := self.run.pruner.missed()):
            raise TrainerError(f"the target sparsity was missed: {'; '.join(missed)}")
        failed = self._save(url, state, patience) if self._ranks.speaks else None
        self._ranks.any(False)  # nobody goes on before it is there
        if failed is not None:
            raise failed
        self._published.append(url)
        return url

    def _save(self, url: str, state: checkpoint.State, patience: float) -> OSError | None:
        """Write the state and tell of it; what the storage said, where it could not be written. A full disk is emptied,
        a share comes back: what was trained is not given up for that at once."""
        deadline, pause = time.monotonic() + patience, FIRST_PAUSE_SECONDS
        while True:
            try:
                checkpoint.save(url, self.order.program, state)
            except OSError as error:
                if time.monotonic() + pause > deadline or self.order.should_stop():
                    return error
                log.warning("%s cannot be written, trying again in %g s: %s", url, pause, error)
                time.sleep(pause)
                pause = min(60.0, 2 * pause)
            else:
                break
        told = self.order.on_checkpoint
        if told is None or told(url, self.run.step) is not False:
            self._noted = url
        return None

    def _state(self) -> checkpoint.State:
        """The run's state. Raises RanksDiffer where it is another one in another process."""
        state = self.run.state()
        kinds = (("the weight", state.weights), ("the moment", state.moments), ("the mask", state.masks))
        self._ranks.agree(
            state.step, {f"{kind} {name}": array for kind, arrays in kinds for name, array in arrays.items()}
        )
        return state

    def _restore(self) -> None:
        order, run = self.order, self.run
        found = (
            None if order.resume_from is None else _resumable(order.program, order.start, order.resume_from)
        )
        if found is not None:
            url, state = found
            if not order.start <= state.step <= order.end:
                raise CheckpointError(
                    f"{url} is at step {state.step}, outside this segment's {order.start} to {order.end}"
                )
            run.load(state, url)
        elif order.parent is not None:
            run.load(checkpoint.load(order.parent, order.program, order.start), order.parent)
        else:
            run.begin()


def _resumable(program: Program, start: int, url: str) -> tuple[str, checkpoint.State] | None:
    """The state at `url`; where it is damaged, the newest intact one beside it; in a folder of states, its newest."""
    if checkpoint.is_step(url.rstrip("/").rpartition("/")[2]):
        try:
            return url, checkpoint.load(url, program)
        except CheckpointError:
            beside = checkpoint.latest(url.rstrip("/").rpartition("/")[0], program, after=start)
            if beside is None and storage.names(url):
                raise
            return beside
    return checkpoint.latest(url, program, after=start)


def _result(
    run: Run, start: int, loss: float, url: str, seconds: float, steps: int, members: int
) -> SegmentResult:
    program, batches, end = run.program, run.batches, run.step
    counts = run.counts()
    linear = [counts[layer.name] for layer in run.pruner.layers if layer.linear]
    nonzero, dense = sum(part for part, _ in linear), sum(whole for _, whole in linear)
    whole = densities(program.pruning, run.pruner.layers, 0, end)
    kept = whole[start:]
    masks = run.pruner.masks()
    packed = sum(checkpoint.packed_bytes(mask.numel()) for mask in masks.values())
    rules = families.rules(program.family)
    per_step = rules.flops_per_input(program.shape) * batches.tokens_per_batch
    objective = batches.objective
    return SegmentResult(
        loss=loss,
        checkpoint=url,
        step=end,
        nonzero_params=nonzero,
        dense_params=dense,
        sparsity_reached=1.0 - nonzero / dense,
        per_layer=counts,
        tokens=end * batches.tokens_per_batch,
        repeats=batches.repeats(end),
        seconds=seconds,
        steps_per_second=steps / seconds if steps else 0.0,
        tokens_per_second=steps * batches.tokens_per_batch / seconds if steps else 0.0,
        flops=per_step * (end - start),
        sparse_flops=per_step * sum(kept),
        model_flops=rules.training_flops(program.shape, objective.inputs, objective.targets)
        * program.batch_size
        * (end - start),
        average_density=sum(kept) / (end - start),
        run_flops=per_step * end,
        run_sparse_flops=per_step * sum(whole),
        run_density=sum(whole) / end,
        mask_seconds=run.pruner.mask_seconds,
        mask_updates=run.pruner.updates,
        mask_ms=1e3 * run.pruner.mask_seconds / max(1, run.pruner.updates),
        mask_bytes_per_weight=packed / max(1, sum(mask.numel() for mask in masks.values())),
        members=members,
        micro_batch=run.micro_batch,
    )


class Clock:
    """Wall time of steps: evaluation and checkpoints do not count."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._away = 0.0

    def __enter__(self) -> None:
        self._left = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._away += time.perf_counter() - self._left

    def stopped(self) -> Clock:
        """The clock stands still inside `with clock.stopped():`."""
        return self

    def seconds(self) -> float:
        """Seconds that it ran."""
        return time.perf_counter() - self._begin - self._away
