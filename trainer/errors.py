"""What can go wrong in training, each kind with its own name, so that callers can act on the kind."""

from __future__ import annotations


class TrainerError(RuntimeError):
    """Base of everything this package raises on purpose while data are prepared or a segment is trained."""


class DataError(TrainerError):
    """A data source that cannot be read, or prepared data that are missing, damaged or not the program's."""


class CheckpointError(TrainerError):
    """A checkpoint that is torn, altered, of another program or of a newer format: which file, and why."""


class PretrainedError(CheckpointError):
    """A place without weights to start from, or with those of another model: what it holds, what would be right."""


class RanksDiffer(TrainerError):
    """Processes that train one run together have different bits where all must have the same.

    Attributes: step (steps done when it was seen), ranks (those unlike rank 0), names (what differs).
    """

    def __init__(self, step: int, ranks: list[int], names: list[str]) -> None:
        super().__init__(step, ranks, names)
        self.step = step
        self.ranks = ranks
        self.names = names

    def __str__(self) -> str:
        more = f" and {len(self.names) - 3} more" if len(self.names) > 3 else ""
        return (
            f"after step {self.step} rank {' and '.join(map(str, self.ranks))} differs from rank 0 in "
            f"{', '.join(self.names[:3])}{more}; no state was written since they agreed last: start again from the "
            "newest checkpoint, and where it happens again, look for a machine or a device that computes wrongly"
        )


class RankGone(TrainerError):
    """Another process of the run ended, or cannot be reached: this one cannot go on without it."""


class Stopped(TrainerError):
    """The caller asked to stop; the state was written first.

    Attributes: step (steps done), checkpoint (URL of the state at that step).
    """

    def __init__(self, step: int, checkpoint: str) -> None:
        super().__init__(step, checkpoint)
        self.step = step
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"stopped on request after step {self.step}; the state is in {self.checkpoint}"


class Diverged(TrainerError):
    """The loss is not a number, infinite, or far worse than guessing. Trying again gives the same.

    Attributes: step (steps done when it was seen), loss (nats per target).
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step, loss)
        self.step = step
        self.loss = loss

    def __str__(self) -> str:
        return (
            f"the run diverged: loss {self.loss} after step {self.step}; "
            "a lower learning rate or a longer warm-up would be right"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether what failed was an allocation: the same work in smaller pieces may well succeed."""
    # torch raises OutOfMemoryError on accelerators, and a plain RuntimeError from the CPU's allocator.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))
    )


class ShapeError(ValueError):
    """A parameter target or model option that gives no model, with what would be right."""
