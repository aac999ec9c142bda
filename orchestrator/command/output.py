"""How the command shows things: aligned tables, numbers with units, JSON that stands alone on stdout."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from fitter.numbers import short

if TYPE_CHECKING:
    # Imported where something is drawn: JSON needs none of it.
    from rich.console import Console
    from rich.table import Table


def console(*, stderr: bool = False) -> Console:
    """Colours on a terminal only; piped tables keep their full width."""
    from rich.console import Console

    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def print_json(document: Any) -> None:
    """One JSON document and nothing else."""
    click.echo(json.dumps(document, indent=2, allow_nan=False, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A plain aligned table; columns whose name begins with `>` are numbers and align right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Folded, not cut: a narrow terminal makes a table ugly, not wrong.
        made.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def count(number: float | None) -> str:
    """5308416 → 5.31 M."""
    return "–" if number is None else short(number, " ")


def flops(number: float) -> str:
    """3.2e15 → 3.2 PFLOP."""
    for size, unit in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if number >= size:
            return f"{number / size:.3g} {unit}FLOP"
    return f"{number:.3g} FLOP"


def size(number: float) -> str:
    """Bytes: 3200000 → 3.05 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def money(dollars: float) -> str:
    """1234.5 → $1,230; small sums with cents."""
    return f"${dollars:.2f}" if dollars < 10 else f"${float(f'{dollars:.3g}'):,.0f}"


def percent(share: float) -> str:
    """0.875 → 87.5 %."""
    return f"{100 * share:.4g} %"


def figure(number: float | None, digits: int = 4) -> str:
    """A number at a fixed number of digits; a dash where there is none."""
    return "–" if number is None or not math.isfinite(number) else f"{number:.{digits}g}"


def span(low: float | None, high: float | None, digits: int = 4) -> str:
    """An interval; says so where the value is not identified."""
    if low is None or high is None:
        return "not identified"
    return f"{figure(low, digits)} … {figure(high, digits)}"


def shares(low: float | None, high: float | None) -> str:
    """An interval of shares: 0.0388, 0.112 → 3.88 … 11.2 %; says so where the value is not identified."""
    if low is None or high is None:
        return span(low, high)
    return f"{span(100 * low, 100 * high, 3)} %"


def duration(seconds: float | None) -> str:
    """75 → 1 min 15 s."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 72 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
