"""Which programs may be trained in one pack, and which gain by it. No torch here: plans are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainer.families import rules
from trainer.program import Program, key_of

#: What the members of a pack must agree in: they differ in masks, learning rate, seed and length.
ALIKE = ("family", "shape", "batch_size", "data", "then", "optimizer", "numerics")

#: Sizes that are tried: between them the gain hardly changes.
SIZES = (1, 2, 4, 8, 16)

#: A pack must train its members so many times as fast as one after the other: below that, waiting for one another
#: costs more than is won.
LEAST_GAIN = 1.05

#: Share of the free memory that a pack may take.
_MEMORY_SHARE = 0.7

#: Seconds that the calls of one layer's forward and backward pass take, and FLOPs a second, by device type: where
#: nothing was measured. CPU: one core of a server; CUDA: kernels compiled layer by layer on a large GPU.
_CALLS = {"cpu": 2e-3, "cuda": 2e-4}
_RATE = {"cpu": 4e10, "cuda": 5e13}


@dataclass(frozen=True)
class Speed:
    """A pack of so many members: seconds of a step of all of them, and the most bytes in use (0: unknown)."""

    members: int
    seconds: float
    memory: int = 0


def can_be_packed(program: Program) -> bool:
    """Whether a program can be a member of a pack at all."""
    return unlike(program, program) is None


def unlike(a: Program, b: Program) -> str | None:
    """Why two programs cannot be members of one pack; None where they can."""
    if not rules(a.family).STACKED:
        return f"{a.family} is not trained in packs"
    if ":" in a.numerics.device_type:
        return "each is trained by several chips"
    for name in ALIKE:
        if getattr(a, name) != getattr(b, name):
            return f"they differ in {name}"
    return None


def likeness(program: Program) -> str:
    """Equal for programs that may be members of one pack. SHA-256, hex."""
    value = program.to_dict()
    return key_of({name: value[name] for name in ALIKE})


def changes_no_bit(program: Program) -> bool:
    """Whether packed and alone are the same to the bit, as far as tests can tell: in float32 on the CPU, where the rows
    of each member begin on a boundary of 64 bytes. Elsewhere they agree within rounding.
    """
    numerics, data = program.numerics, program.data
    examples = numerics.micro_batch or program.batch_size, data.evaluation_batch_size or program.batch_size
    whole = all(count % 16 == 0 for count in examples)
    return numerics.device_type == "cpu" and numerics.precision == "float32" and whole


def worth_packing(program: Program) -> bool:
    """Whether a program is packed without having been asked for: its family can, and no bit of a CPU run changes."""
    return rules(program.family).STACKED and (
        program.numerics.device_type != "cpu" or changes_no_bit(program)
    )


def modelled(program: Program) -> dict[int, Speed]:
    """Speeds where none were measured: seconds = parts · layers · calls + members · FLOPs / rate."""
    shape, kind = program.shape, program.numerics.device_type
    layers = sum(count for name, count in shape.items() if name.endswith("layers"))
    # Six FLOPs a weight and position; the logits, large beside small layers, are counted as weights too.
    family = rules(program.family)
    positions = program.batch_size * family.counted(program.data.sequence_length)
    work = positions * (
        family.flops_per_input(shape) + 6.0 * shape.get("vocab_size", 0) * shape.get("d_model", 0)
    )
    calls, rate = _CALLS.get(kind, _CALLS["cuda"]), _RATE.get(kind, _RATE["cuda"])
    parts = program.batch_size / (program.numerics.micro_batch or program.batch_size)
    return {members: Speed(members, parts * layers * calls + members * work / rate) for members in SIZES}


def gain(speeds: Mapping[int, Speed], members: int) -> float:
    """How many times as fast a pack of so many is as its members one after the other: between two sizes, on the line
    through them; beyond the largest, as there.
    """
    known = sorted(speeds)
    if members <= 1 or len(known) < 2 or known[0] != 1:
        return 1.0
    size = min(members, known[-1])
    above = next(n for n in known if n >= size)
    below = max(n for n in known if n <= size)
    part = 0.0 if above == below else (size - below) / (above - below)
    seconds = speeds[below].seconds + part * (speeds[above].seconds - speeds[below].seconds)
    return size * speeds[1].seconds / seconds


def best_size(speeds: Mapping[int, Speed], most: int, *, memory: int | None = None) -> int:
    """The pack size for `most` members at hand: the smallest whose gain is within 3 % of the best; 1 where no size
    gains enough. memory: free bytes.
    """
    fitting = [n for n in range(1, most + 1) if n == 1 or _fits(speeds, n, memory)]
    gains = {n: gain(speeds, n) for n in fitting if n <= max(speeds, default=1)}
    top = max(gains.values(), default=1.0)
    if top < LEAST_GAIN:
        return 1
    return min(n for n, value in gains.items() if value >= 0.97 * top)


def sizes_up_to(most: int) -> Iterable[int]:
    """The sizes to try where so many members may come together."""
    return [n for n in SIZES if n <= most] if most > 1 else [1]


def _fits(speeds: Mapping[int, Speed], members: int, memory: int | None) -> bool:
    known = sorted(n for n, speed in speeds.items() if speed.memory)
    if memory is None or not known:
        return True
    low, high = known[0], known[-1]
    each = (speeds[high].memory - speeds[low].memory) / (high - low) if high > low else speeds[high].memory
    more = (
        speeds[high].memory + each * (members - high)
        if members > high
        else speeds[_least(known, members)].memory
    )
    return more - speeds[low].memory <= _MEMORY_SHARE * memory


def _least(known: list[int], members: int) -> int:
    return next(n for n in known if n >= members)
