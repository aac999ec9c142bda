"""What a segment gives back: plain numbers, ready for a record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """The end of a segment.

    loss: mean validation loss on the fixed held-out batches, nats per target, without z-loss.
    checkpoint, step: URL of the state at the segment's end, and that step.
    nonzero_params, dense_params: non-zero and all prunable linear weights (no embeddings, logits, norms), counted.
    sparsity_reached: 1 − nonzero/dense of those. per_layer: every prunable weight → (non-zeros, all).
    tokens: input positions trained on from step 0. repeats: times the training data were gone through, from step 0.
    seconds, steps_per_second, tokens_per_second: wall time of the steps done in this process, evaluation left out;
    in a pack, this segment's share of it.
    flops: training FLOPs of [start, end) under dense accounting, 6·linear weights·tokens; sparse_flops: the same
    times the density at each step; model_flops: with attention scores and logits counted, dense.
    average_density: mean share of linear weights kept over [start, end).
    run_flops, run_sparse_flops, run_density: the same three over the run's steps [0, end), shared ones included.
    mask_seconds, mask_updates: time spent on computing masks, and how often, in this process; mask_ms: a single time,
    0 where there was none. mask_bytes_per_weight: what a prunable weight's mask takes in the checkpoint, 0 without.
    members: segments that its pack began with, this one counted; 1: it was trained alone.
    micro_batch: examples of one forward pass at its end: fewer than its program says where memory did not hold those.
    """

    loss: float
    checkpoint: str
    step: int
    nonzero_params: int
    dense_params: int
    sparsity_reached: float
    per_layer: dict[str, tuple[int, int]]
    tokens: int
    repeats: float
    seconds: float
    steps_per_second: float
    tokens_per_second: float
    flops: float
    sparse_flops: float
    model_flops: float
    average_density: float
    run_flops: float
    run_sparse_flops: float
    run_density: float
    mask_seconds: float
    mask_updates: int
    mask_ms: float
    mask_bytes_per_weight: float
    members: int = 1
    micro_batch: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        value = dataclasses.asdict(self)
        value["per_layer"] = {name: list(counts) for name, counts in self.per_layer.items()}
        return value
