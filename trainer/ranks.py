"""Several processes that train one run together, each on a part of every batch (data parallel).

A batch is cut into parts of `numerics.micro_batch` examples, as one process does that accumulates gradients; here each
process computes some of them. Everything else is done by all of them alike, on the same bits: optimiser, masks and
schedules need nobody's word. The process of rank 0 speaks for all: it writes checkpoints and metric points.

Torch's own DistributedDataParallel hooks into `backward` and leaves the order of its sums to the backend, the size of
a message and the network. Here sums are taken in the order of the parts (`trainer.gradients`), so that a run has the
bits that it has in one process with the same `micro_batch`, however many share it.

No torch at import: a job is checked before any process is started for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import RankGone, RanksDiffer, is_out_of_memory
from trainer.program import Program, ProgramError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the `count` that train one run. Alone, nothing is sent or compared."""

    rank: int = 0
    count: int = 1

    @property
    def speaks(self) -> bool:
        """Whether this is the process that writes for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether one process trains the run."""
        return self.count == 1

    def share(self, batch: Mapping[str, NDArray[Any]], part: int) -> dict[str, NDArray[Any]]:
        """This process's rows of a batch that is cut into parts of `part` rows: parts rank, rank + count, …"""
        if self.alone:
            return dict(batch)
        return {
            name: rows.reshape(-1, self.count, part, *rows.shape[1:])[:, self.rank].reshape(
                -1, *rows.shape[1:]
            )
            for name, rows in batch.items()
        }

    def deal(self, flat: Tensor, into: Tensor) -> Callable[[], None]:
        """Every process's values of this one's stretch: [count · n], cut into one stretch a rank, into [count, n].

        Both are the network's until what is returned was called: that waits.
        """
        import torch.distributed as dist

        with _heard():
            work = dist.all_to_all_single(into.view(-1), flat, async_op=True)

        def wait() -> None:
            with _heard():
                work.wait()

        return wait

    def gather(self, values: Tensor, into: Tensor) -> None:
        """The values [n] of every process, in the order of their ranks, into [count · n]."""
        import torch.distributed as dist

        with _heard():
            dist.all_gather(list(into.view(self.count, -1).unbind()), values)

    def in_turn(self, values: Tensor) -> Tensor:
        """Values of parts that were handed out in turn, [n] in each process, in the parts' order: [count · n]."""
        if self.alone:
            return values
        everyone = values.new_empty(self.count * len(values))
        self.gather(values.contiguous(), everyone)
        return everyone.view(self.count, -1).t().flatten()

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process. Returns when all have asked."""
        if self.alone:
            return flag
        import torch
        import torch.distributed as dist

        found = torch.tensor(int(flag))
        with _heard():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def agree(self, step: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Raises RanksDiffer unless all processes have the same bits in these arrays, and stand at the same step."""
        if self.alone:
            return
        self._compare(step, {"the number of steps done": step.to_bytes(8, "big")})
        self._compare(step, {name: array.tobytes() for name, array in arrays.items()})

    def _compare(self, step: int, contents: Mapping[str, bytes]) -> None:
        import torch

        digests = torch.tensor(
            [
                int.from_bytes(hashlib.sha256(content).digest()[:8], "big", signed=True)
                for content in contents.values()
            ]
        )
        everyone = digests.new_empty(self.count * len(digests))
        self.gather(digests, everyone)
        unlike = everyone.view(self.count, -1) != everyone[: len(digests)]
        if unlike.any():
            ranks = unlike.any(1).nonzero()[:, 0].tolist()
            names = [name for name, wrong in zip(contents, unlike.any(0).tolist(), strict=True) if wrong]
            raise RanksDiffer(step, ranks, names)


#: The one process of a run that no other shares.
ALONE = Ranks()


@contextmanager
def _heard() -> Iterator[None]:
    """Raises RankGone for what a collective raises when another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        raise RankGone(f"another process of the run is gone, or cannot be reached: {first}") from error


def check_share(program: Program, processes: int) -> None:
    """Raises ProgramError where so many processes cannot train the program together."""
    if processes == 1:
        return
    if processes < 1:
        raise ProgramError(f"{processes} processes train nothing: use at least 1")
    kind, _, chips = program.numerics.device_type.partition(":")
    if kind == "xla":
        if int(chips or 1) % processes:
            raise ProgramError(
                f"on xla one process drives all chips of its host: {processes} processes need as many hosts, and "
                f"xla:{4 * processes} for four chips on each"
            )
        return
    if (problem := cannot_share(program.batch_size, program.numerics.micro_batch, processes)) is not None:
        raise ProgramError(problem)


def cannot_share(batch_size: int, micro_batch: int, processes: int) -> str | None:
    """Why so many processes cannot share such a batch, with what would be right; None where they can."""
    part = micro_batch or batch_size
    if batch_size % processes:
        return f"{processes} processes cannot share batches of {batch_size}: use a divisor of it"
    if batch_size // part % processes:
        return (
            f"{processes} processes cannot share a batch of {batch_size} that is cut into {batch_size // part} parts: "
            f"set micro_batch to {batch_size // processes} or a divisor of it"
        )
    return None


def assigned() -> tuple[int, int] | None:
    """(rank, count) as torchrun and its like put them into RANK and WORLD_SIZE; None where nobody did."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def device_of(name: str) -> str:
    """The device of this process where `name` is that of all: each takes the GPU of its LOCAL_RANK."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" else name


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those of its run, which meet at MASTER_ADDR and MASTER_PORT. Returns when all are there."""
    import torch
    import torch.distributed as dist

    # Gloo beside NCCL: what the host asks the others must not wait for a GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
