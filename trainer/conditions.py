"""What a program must fulfil: what is wrong with one, each with what would be right."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer.families import FAMILIES, rules
from trainer.parts import OF_IMAGES, OPTIMIZERS, OPTIONS_OF, PRECISIONS
from trainer.pruning.rounds import horizon, rewinds
from trainer.pruning.rules import problems as pruning_problems

if TYPE_CHECKING:
    from trainer.program import Program


def _switch_problems(program: Program) -> list[str]:
    then = program.then
    if then is None:
        return []
    problems = []
    if not 0 < then.at < program.steps:
        problems.append(
            f"the data switch at step {then.at}, which lies outside a run of {program.steps} steps"
        )
    alike = dataclasses.replace(program.data, digest=then.data.digest, unique=then.data.unique)
    if alike != then.data:
        problems.append("data.then differs in more than its source: batches keep their form over a switch")
    if rewinds(program.pruning):
        problems.append(f"{program.pruning.method} goes back to an earlier step: it cannot switch its data")
    return problems


def problems_of(program: Program) -> list[str]:
    """All that is wrong with a program; empty: nothing."""
    problems = []
    if program.steps < 1:
        problems.append(f"steps is {program.steps}: a run has at least one step")
    if program.batch_size < 1:
        problems.append(f"batch_size is {program.batch_size}: it must be at least 1")
    rate = program.learning_rate
    if rate.schedule not in ("rsqrt", "cosine", "constant"):
        problems.append(f"learning-rate schedule {rate.schedule!r} is unknown: use rsqrt, cosine or constant")
    if program.family in FAMILIES and program.data.objective not in rules(program.family).OBJECTIVES:
        trained = ", ".join(rules(program.family).OBJECTIVES)
        problems.append(f"{program.family} is trained by {trained}, not by {program.data.objective!r}")
    problems.extend(_switch_problems(program))
    if program.data.unique < 0 or program.data.crop_padding < 0:
        problems.append("data.unique and data.crop_padding are counts: use 0 for none")
    if program.data.objective != OF_IMAGES and (program.data.random_flip or program.data.crop_padding):
        problems.append("random_flip and crop_padding change images: leave them out for text")
    if program.numerics.label_smoothing and program.shape.get("sigmoid"):
        problems.append("label_smoothing is of a softmax: leave it out, or set model.loss: softmax")
    if program.family in FAMILIES and (length := rules(program.family).LENGTH) is not None:
        longest = program.shape.get(length, program.data.sequence_length)
        if program.data.sequence_length > longest:
            problems.append(
                f"sequence_length is {program.data.sequence_length}, and {length} of the {program.family} is "
                f"{longest}: raise model.{length} or shorten the sequences"
            )
    if program.optimizer.name not in OPTIMIZERS:
        problems.append(f"optimizer {program.optimizer.name!r} is unknown: use {', '.join(OPTIMIZERS)}")
    problems += [
        f"{program.optimizer.name} has no {option}: leave it out, or use {' or '.join(names)}"
        for option, names in OPTIONS_OF.items()
        if getattr(program.optimizer, option) and program.optimizer.name not in names
    ]
    if rate.linear_warmup and rate.schedule != "rsqrt":
        problems.append(f"linear_warmup is of rsqrt: {rate.schedule} always rises linearly; leave it out")
    if rate.cooldown and rate.schedule != "rsqrt":
        problems.append(f"cooldown is of rsqrt: {rate.schedule} has none; leave it out")
    micro = program.numerics.micro_batch
    if micro < 0 or (micro and program.batch_size % micro):
        problems.append(
            f"micro_batch is {micro}, which does not divide the batch of {program.batch_size}: "
            "take a divisor, or 0 for the whole batch at once"
        )
    if program.numerics.precision not in PRECISIONS:
        problems.append(f"precision {program.numerics.precision!r} is unknown: use {', '.join(PRECISIONS)}")
    if not 0 <= program.pruning.sparsity < 1:
        problems.append(f"sparsity is {program.pruning.sparsity}: it must lie in [0, 1)")
        return problems
    # Each method knows its own conditions.
    problems += (found := pruning_problems(program))
    length = program.steps if found else horizon(program.pruning, program.steps)
    if rate.cooldown and not 0 <= rate.cooldown < length:
        problems.append(f"a cooldown of {rate.cooldown} steps does not fit into {length}")
    return problems
