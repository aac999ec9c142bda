"""Spec texts that the tests of this folder vary."""

from __future__ import annotations

SMALL = """\
name: small
model: {family: t5, d_model: 64, heads: 4, d_ff: 170, encoder_layers: 2, decoder_layers: 2, shape_rule: linear}
data: {source: python-source, max_tokens: 1e6, sequence_length: 64}
grid:
  nonzero_params: [16e3, 32e3, 64e3]
  sparsity: [0, 0.5, 0.75]
  steps: [80, 160, 320]
pruning: {every: 10}
training: {batch_size: 8, learning_rate: {base: 0.25, warmup: 40}}
"""
