"""Where metric points go. The trainer knows this one method; the ledger, MLflow and tests bring their own sinks."""

from __future__ import annotations

from typing import Protocol


class MetricSink(Protocol):
    """Takes points as they come. Called on the training thread: it must not block on a network.

    Names: `loss` (training batch, nats per target, without z-loss), `validation_loss`, `learning_rate`, `sparsity`
    (of the prunable linear weights), which depend only on the program; `steps_per_second` and `tokens_per_second`.
    """

    def point(self, step: int, name: str, value: float) -> None:
        """`value` of `name` after `step` steps of the program."""
        ...


class NoSink:
    """Drops every point."""

    def point(self, step: int, name: str, value: float) -> None:
        pass
