"""Large numbers as people write them."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1024)
def short(number: float, gap: str = "") -> str:
    """5308416 → 5.31M, or with a gap of one space 5.31 M: what a person can compare at a glance."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{gap}{unit}"
    return f"{number:.3g}"
