"""The sparsity law with its base kept (paper, section 4.2, n:m patterns).

b_N, a_D, b_D and c come from a base law; only a_S, b_S and c_S are fitted. For n:m patterns, other pruning
methods and pretrained starts, where few runs suffice because only sparsity's effect is new.
"""

from __future__ import annotations

from fitter.forms.sparsity import Sparsity


class SparsityTransfer(Sparsity):
    """`Sparsity` with b_N, a_D, b_D, c taken from a base law."""

    name = "sparsity-transfer"
    formula = Sparsity.formula + " with b_N, a_D, b_D, c of a base law"
    source = "Frantar et al. 2023, arXiv 2309.08520, section 4.2"
    inherits = ("b_N", "a_D", "b_D", "c")
