"""Which runs one law describes: those of one family, pruned by one method to one pattern.

A dense run belongs to every group of its family: nothing is pruned in it. Several n:m patterns of one m make one group,
`n:m`: each of them means one sparsity, and a law needs several (paper, section 4.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fitter.errors import SettingError

#: Columns of a runs table by whose values the runs of a sweep are told apart.
COLUMNS = ("family", "method", "pattern")

#: Of those, the ones that say nothing about a dense run; and what a run is where its table does not say.
PRUNING = {"method": "unnamed", "pattern": "unstructured"}

_N_M = re.compile(r"\d+:(\d+)")


class UnknownGroup(SettingError):
    """A sweep has no group of that name; the message lists those that it has."""


def grouped(
    rows: Sequence[Mapping[str, Any]], by: Sequence[str] = COLUMNS
) -> dict[tuple[str, ...], list[int]]:
    """Places in `rows` of the runs of each group.

    Args:
        rows: runs with `sparsity` and, where known, the columns `by`.
        by: columns whose values tell groups apart.

    Returns:
        values of `by` → places, ascending; groups in the order in which their first pruned run comes.
    """
    pruned = [(row["sparsity"] or 0) > 0 for row in rows]
    patterns = {str(row.get("pattern")) for row, is_pruned in zip(rows, pruned, strict=True) if is_pruned}

    def label(row: Mapping[str, Any], column: str) -> str:
        value = row.get(column)
        text = PRUNING.get(column, "unnamed") if value is None or value == "" else str(value)
        return _pooled(text, patterns) if column == "pattern" else text

    groups: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        if pruned[place]:
            groups.setdefault(tuple(label(row, column) for column in by), []).append(place)
    for place, row in enumerate(rows):
        if not pruned[place]:
            own = tuple("dense" if column in PRUNING else label(row, column) for column in by)
            kin = [group for group in groups if _of_one_stock(group, own, by)]
            for group in kin or [own]:
                groups.setdefault(group, []).append(place)
    return {group: sorted(places) for group, places in groups.items()}


def named(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Places in `rows` of the runs of each group, by the group's name: of its values those in which groups differ.

    A single group has the empty name.
    """
    groups = grouped(rows)
    differ = [len(set(values)) > 1 for values in zip(*groups, strict=True)]
    return {
        " ".join(value for value, tells in zip(group, differ, strict=True) if tells): places
        for group, places in groups.items()
    }


def chosen(asked: str | None, names: Sequence[str]) -> str:
    """The name of the group that is meant: the first by default; a pattern of one m also means the group of that m.

    Raises UnknownGroup.
    """
    if not asked:
        return next(iter(names), "")
    pooled = _N_M.sub(r"n:\1", asked)
    for name in (asked, pooled):
        if name in names:
            return name
    if names in ([], [""], ("",)):
        raise UnknownGroup(f"there is no group '{asked[:80]}': one law describes all runs of this sweep")
    raise UnknownGroup(f"there is no group '{asked[:80]}': the groups are {', '.join(names)}")


def _pooled(pattern: str, patterns: set[str]) -> str:
    """A pattern, or the name of all n:m patterns of its m where there are several."""
    found = _N_M.fullmatch(pattern)
    if found is None:
        return pattern
    kin = [other for other in patterns if (match := _N_M.fullmatch(other)) and match[1] == found[1]]
    return f"n:{found[1]}" if len(kin) > 1 else pattern


def _of_one_stock(group: tuple[str, ...], dense: tuple[str, ...], by: Sequence[str]) -> bool:
    """Whether a dense run with these values belongs to the group."""
    return all(
        column in PRUNING or mine == theirs for column, mine, theirs in zip(by, group, dense, strict=True)
    )
