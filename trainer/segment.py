"""Train one segment of a program, or a pack of them: from a parent's state at `start` to the state at `end`, with
exact resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor

from trainer.course import Clock, Course, Order, never
from trainer.data.prepared import Prepared, folder_of, open_prepared
from trainer.devices import device_for
from trainer.errors import is_out_of_memory
from trainer.metrics import MetricSink
from trainer.pack import Pack
from trainer.packing import unlike
from trainer.program import Program
from trainer.ranks import ALONE, Ranks
from trainer.result import SegmentResult
from trainer.run import Run

#: How a segment ended: with a result, or with what `train_segment` would have raised.
Ending = SegmentResult | Exception


def train_segment(
    program: Program,
    start: int,
    end: int,
    *,
    data: Path,
    parent: str | None,
    output: str,
    sink: MetricSink,
    checkpoint_every: int = 0,
    resume_from: str | None = None,
    on_checkpoint: Callable[[str, int], bool | None] | None = None,
    should_stop: Callable[[], bool] = never,
    evaluate_every: int = 0,
    log_every: int = 10,
    halvings: int = 0,
    device: str = "cpu",
    ranks: Ranks = ALONE,
) -> SegmentResult:
    """Train steps [start, end) of `program` and publish the state at `end` below `output`.

    data: folder of prepared data with the program's digest; those to which it switches lie beside it, as `prepare` and
    `copies.on_this_machine` put them. parent: URL of the state at `start`; None iff start is 0.
    output: URL below which states appear as step-<n>: every `checkpoint_every` steps (0: none; the newest two are
    kept), when asked to stop, and at `end`. on_checkpoint is told the URL and step of each once it is published; where
    it returns False, it could not take note of that, and the last one of which it could is kept, too.
    resume_from: URL of a state of this segment, or of a folder of such. Where that state is damaged or gone, the newest
    intact one beside it counts, and where there is none CheckpointError says what is wrong with it. Where nothing
    was written yet, training begins at `start`. Resumed or not, the result is the same bit for bit.
    evaluate_every: validation loss every so many steps (0: at `end` only). Metric points name the steps done.
    halvings: so often was the memory too small in earlier tries, which ended by it: passes are made over half as many
    examples at a time for each, down to one, and the result says so (`micro_batch`).
    ranks: the processes that train it together, of which this is one; all are called with the same arguments, and only
    the one of rank 0 writes states and metric points.

    Raises Stopped after writing the state when `should_stop()` (asked before every step) turns true, Diverged on a
    loss that is not finite or four times that of guessing, CheckpointError, DataError, RanksDiffer where processes that
    train it together are found to disagree, ProgramError on a bad range or a batch that they cannot share.
    """
    order = Order(
        program=program,
        start=start,
        end=end,
        data=data,
        parent=parent,
        output=output,
        sink=sink,
        checkpoint_every=checkpoint_every,
        resume_from=resume_from,
        on_checkpoint=on_checkpoint,
        should_stop=should_stop,
        evaluate_every=evaluate_every,
        log_every=log_every,
        halvings=halvings,
    )
    [(_, ending)] = train_pack([order], device=device, ranks=ranks)
    if isinstance(ending, Exception):
        raise ending
    return ending


def train_pack(
    orders: Sequence[Order], *, device: str = "cpu", ranks: Ranks = ALONE
) -> Iterator[tuple[int, Ending]]:
    """Train segments of one shape side by side, each as `train_segment` would; (index, ending) as each one ends.

    What their programs must agree in, `trainer.packing.ALIKE` says. A member that ends, well or not, leaves the pack,
    and the others go on. Where the memory does not hold them all, one half waits until the other is done; where it does
    not hold one, its passes are over fewer examples at a time from then on (`SegmentResult.micro_batch`).

    Raises ValueError where two programs do not fit into one pack, or several processes (`ranks`) are to train a pack.
    """
    if len(orders) > 1 and not ranks.alone:
        raise ValueError(f"{ranks.count} processes train one segment together, not a pack of {len(orders)}")
    for order in orders[1:]:
        if (reason := unlike(orders[0].program, order.program)) is not None:
            raise ValueError(f"these segments are no pack: {reason}")
    place = device_for(device)
    prepared: dict[Path, Prepared] = {}
    live: _Courses = {}
    ended: dict[int, Ending] = {}
    for index, order in enumerate(orders):
        try:
            switch, then = order.program.then, None
            if switch is not None:
                then = _opened(folder_of(order.data.parent, switch.data.digest), prepared)
            own = _opened(order.data, prepared)
            live[index] = Course(order, own, place, then=then, ranks=ranks)
        except Exception as error:
            ended[index] = error
    yield from ended.items()
    if live:
        yield from _train(live)


def _opened(folder: Path, known: dict[Path, Prepared]) -> Prepared:
    if folder not in known:
        opened = open_prepared(folder)
        opened.verify_once()
        known[folder] = opened
    return known[folder]


class _Engine(Protocol):
    """Steps runs: one that is alone, or a pack."""

    @property
    def intact(self) -> bool: ...

    def advance(self) -> Sequence[Tensor]: ...

    def evaluate(self) -> list[float]: ...


class _Alone:
    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def intact(self) -> bool:
        return self._run.group.intact

    def advance(self) -> Sequence[Tensor]:
        return [self._run.advance()]

    def evaluate(self) -> list[float]:
        return [self._run.evaluate()]


#: By their place among the orders.
_Courses = dict[int, Course]


def _engine(live: _Courses) -> _Engine:
    runs = [course.run for course in live.values()]
    return _Alone(runs[0]) if len(runs) == 1 else Pack(runs)


def _train(live: _Courses) -> Iterator[tuple[int, Ending]]:
    """Step all of them together until each has ended."""
    clock, members, engine = Clock(), len(live), _engine(live)
    timed = 0.0
    # One that is resumed at its very end has nothing to do but to be evaluated and published.
    at_end = {index: course for index, course in live.items() if course.over}
    ended = _settled(at_end, _losses(live, engine), members) if at_end else {}
    while True:
        if ended:
            with clock.stopped():
                yield from ended.items()
            live = {index: course for index, course in live.items() if index not in ended}
            if not live:
                return
            engine = _engine(live)
        if ended := _failures({i: course.stop for i, course in live.items() if course.asked_to_stop}):
            continue
        rates = {index: course.run.learning_rate() for index, course in live.items()}
        try:
            # A round that goes back needs its point first: others wait for it, and it may be told to stop meanwhile.
            if any(course.run.retrace() for course in live.values()):
                continue
            losses = dict(zip(live, engine.advance(), strict=True))
        except Exception as error:
            if engine.intact and _too_large(error, live):
                break
            # It was the pass that they share: none of them can go on from here.
            ended = dict.fromkeys(live, error)
            continue
        if any(course.over for course in live.values()):
            next(iter(live.values())).run.device.wait()
        # What a step of the pack takes, its members share.
        now = clock.seconds()
        share, timed = (now - timed) / len(live), now
        ended = _failures(
            {i: partial(course.stepped, rates[i], losses[i], share) for i, course in live.items()}
        )
        rest = {index: course for index, course in live.items() if index not in ended}
        with clock.stopped():
            due = any(course.wants_evaluation for course in rest.values())
            ended |= _settled(rest, _losses(live, engine) if due else {}, members)
    # Out of memory. What the passes held is free again here, the error being gone.
    del engine
    indices = list(live)
    half = (len(indices) + 1) // 2
    for part in (indices[:half], indices[half:]):
        if part:
            yield from _train({index: live[index] for index in part})


def _too_large(error: Exception, live: _Courses) -> bool:
    """Whether it was the memory, and less can be computed at a time: by one half of a pack, or over fewer examples."""
    return is_out_of_memory(error) and (len(live) > 1 or next(iter(live.values())).run.shrink())


def _losses(live: _Courses, engine: _Engine) -> dict[int, float]:
    """The validation losses; where the memory does not hold those passes, one member's after the other's."""
    try:
        return dict(zip(live, engine.evaluate(), strict=True))
    except Exception as error:
        if not _too_large(error, live):
            raise
    return {
        member: loss
        for index, course in live.items()
        for member, loss in _losses({index: course}, _Alone(course.run)).items()
    }


def _settled(courses: _Courses, losses: Mapping[int, float], members: int) -> dict[int, Ending]:
    """Take validation losses where they are due, and publish states where these are: those that end by it."""
    ended: dict[int, Ending] = {}
    for index, course in courses.items():
        try:
            if course.wants_evaluation:
                course.evaluated(losses[index])
            if course.over:
                ended[index] = course.finish(losses[index], members)
            else:
                course.between()
        except Exception as error:
            ended[index] = error
    return ended


def _failures(actions: Mapping[int, Callable[[], None]]) -> dict[int, Ending]:
    """What each of these raised, where it raised."""
    raised: dict[int, Ending] = {}
    for index, action in actions.items():
        try:
            action()
        except Exception as error:
            raised[index] = error
    return raised
