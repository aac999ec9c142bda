"""SR-STE (Zhou et al. 2021): straight-through pruning that pulls masked weights towards zero, so that masks settle."""

from __future__ import annotations

from trainer.pruning.methods import Method
from trainer.pruning.methods.window import cubic, fits

METHOD = Method(window=(0.25, 0.75), problems=fits, level=cubic, through=True, decay=2e-4)
