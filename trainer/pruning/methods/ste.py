"""Straight-through pruning: the forward pass sees the mask, the gradient reaches every weight (Bengio et al. 2013).

The mask is computed from the dense weights for every forward pass, evaluation included, at the cubic's sparsity; the
dense weights never become zero, so the optimiser's sparsity correction does not act.
"""

from __future__ import annotations

from trainer.pruning.methods import Method
from trainer.pruning.methods.window import cubic, fits

METHOD = Method(window=(0.25, 0.75), problems=fits, level=cubic, through=True)
