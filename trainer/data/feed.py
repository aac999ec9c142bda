"""The batches of a whole run: one stream, or from some step on another one."""

from __future__ import annotations

from trainer.data.batches import Arrays, Batches, Objective
from trainer.data.prepared import Prepared
from trainer.errors import DataError
from trainer.program import Program


class Feed:
    """Training batch by step of the program; held-out batches are of the stream that the last step was trained on.

    After a switch the second stream begins at its own first batch. Raises DataError where data and program do not fit
    together, or the two streams have different vocabularies or images.
    """

    def __init__(self, program: Program, prepared: Prepared, then: Prepared | None) -> None:
        size, seed = program.batch_size, program.seed
        self._first = Batches(program.data, prepared, batch_size=size, seed=seed)
        self._switch = program.then
        self._second: Batches | None = None
        if program.then is not None:
            if then is None:
                raise DataError(
                    f"the program switches to data {program.then.data.digest[:12]}: none are given"
                )
            if (reason := unlike(prepared, then)) is not None:
                raise DataError(reason)
            self._second = Batches(program.then.data, then, batch_size=size, seed=seed)

    @property
    def objective(self) -> Objective:
        """The same before and after a switch."""
        return self._first.objective

    @property
    def evaluation_batches(self) -> int:
        """The number of held-out batches."""
        return self._first.evaluation_batches

    @property
    def tokens_per_batch(self) -> int:
        """Input positions of one training batch: what the law counts as D."""
        return self._first.tokens_per_batch

    def train(self, step: int) -> Arrays:
        """The training batch of step `step`, counted from 0."""
        if self._switch is not None and self._second is not None and step >= self._switch.at:
            return self._second.train(step - self._switch.at)
        return self._first.train(step)

    def switched(self, steps: int) -> bool:
        """Whether the last of `steps` steps was trained on the second stream."""
        return self._switch is not None and steps > self._switch.at

    def validation(self, steps: int, index: int) -> Arrays:
        """Held-out batch `index` for a model that was trained for `steps` steps."""
        second = self._second if self.switched(steps) else None
        return (self._first if second is None else second).validation(index)

    def repeats(self, steps: int) -> float:
        """How often `steps` steps go through the data; of two streams, that which is gone through more often."""
        if self._switch is None or self._second is None:
            return steps / self._first.epoch_batches
        before, after = min(steps, self._switch.at), max(0, steps - self._switch.at)
        return max(before / self._first.epoch_batches, after / self._second.epoch_batches)


def unlike(first: Prepared, then: Prepared) -> str | None:
    """Why no run can go from one of these data to the other; None where one can."""
    before, after = first.manifest.get("image"), then.manifest.get("image")
    if before != after or first.manifest.get("labels") != then.manifest.get("labels"):
        return f"data.then has images {after}, data {before}: both must be of one size and kind"
    if before is None and first.tokenizer != then.tokenizer:
        return f"data.then is prepared with tokenizer {then.tokenizer!r}, data with {first.tokenizer!r}"
    return None
