"""From a claim to what the trainer is told: the same in every process that trains the segment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.attempts import Claim
from orchestrator.tracking.journal import folder_of
from trainer.data import copies
from trainer.program import Program

if TYPE_CHECKING:
    from trainer.course import Order
    from trainer.metrics import MetricSink


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker needs beside the ledger's own record of a segment."""

    ledger_url: str
    storage: str
    """Root URL of checkpoints."""
    controller: str
    sweep_ids: tuple[int, ...] | None
    """For which sweeps the controller was started (see `controllers.served`); None: every active one."""
    logs: Path
    home: Path
    """Where the speeds of packs are kept, and the journals of metric points."""

    @property
    def journals(self) -> Path:
        """The folder of journals, on the worker's disk."""
        return folder_of(self.home, self.ledger_url)


@dataclass(frozen=True)
class Taken:
    """A segment in hand. Checkpoints lie below `storage`."""

    claim: Claim
    storage: str

    @cached_property
    def program(self) -> Program:
        """What its claim says is to be trained. Raises ProgramError where this version cannot."""
        return Program.from_dict(self.claim.program)

    def data(self) -> Path:
        """The folder with its prepared data, fetched where this machine has none. Raises DataError."""
        path, program = Path(self.claim.data_path), self.program
        if program.then is not None:  # its copy lies beside the first one's, where the trainer looks
            copies.on_this_machine(path, program.then.data.digest, self.storage)
        return copies.on_this_machine(path, program.data.digest, self.storage)

    def order(self, sink: MetricSink, **told: Any) -> Order:
        """What is to be trained. told: `on_checkpoint` and `should_stop`, in the process that holds the lease."""
        from trainer.course import Order

        claim, execution = self.claim, self.claim.execution
        return Order(
            program=self.program,
            start=claim.start_step,
            end=claim.end_step,
            data=self.data(),
            parent=claim.parent_checkpoint,
            output="/".join(
                [self.storage, "segments", claim.segment_key[:2], claim.segment_key]
                + [f"attempt-{claim.attempt_id}"]
            ),
            sink=sink,
            checkpoint_every=int(execution.get("checkpoint_every") or 0),
            resume_from=claim.resume_from,
            evaluate_every=int(execution.get("evaluate_every") or 0),
            log_every=int(execution.get("log_every") or 10),
            # The first death may have been the pack's: alone it may fit as it is.
            halvings=max(0, claim.memory_kills - 1),
            **told,
        )
