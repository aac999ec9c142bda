"""Which runs one law describes."""

from __future__ import annotations

from typing import Any

import pytest

from fitter.groups import UnknownGroup, chosen, grouped, named


def run(
    sparsity: float, method: str | None = "gmp", pattern: str | None = "unstructured", family: str = "t5"
) -> Any:
    """A row of a runs table, as far as groups go."""
    return {"sparsity": sparsity, "family": family, "method": method, "pattern": pattern}


def test_dense_runs_belong_to_every_group_of_their_family() -> None:
    rows = [
        run(0, "dense"),
        run(0.5),
        run(0.5, "rigl"),
        run(0, "dense", family="vit"),
        run(0.5, family="vit"),
    ]
    assert grouped(rows) == {
        ("t5", "gmp", "unstructured"): [0, 1],
        ("t5", "rigl", "unstructured"): [0, 2],
        ("vit", "gmp", "unstructured"): [3, 4],
    }
    assert list(named(rows)) == ["t5 gmp", "t5 rigl", "vit gmp"]


def test_a_name_has_what_tells_groups_apart_and_nothing_else() -> None:
    assert named([run(0, "dense"), run(0.5), run(0.75)]) == {"": [0, 1, 2]}
    assert list(named([run(0.5), run(0.5, pattern="2:4")])) == ["unstructured", "2:4"]
    assert list(named([run(0), run(0, family="vit")])) == ["t5", "vit"]


def test_patterns_of_one_m_share_a_law() -> None:
    rows = [
        run(0, "dense"),
        run(0.5),
        run(0.5, pattern="2:4"),
        run(0.75, pattern="1:4"),
        run(0.5, pattern="4:8"),
    ]
    assert named(rows) == {"unstructured": [0, 1], "n:4": [0, 2, 3], "4:8": [0, 4]}


def test_a_table_that_does_not_say_is_of_one_group() -> None:
    assert named([{"sparsity": 0.5}, {"sparsity": 0.0}]) == {"": [0, 1]}
    assert named([run(0.5, None, None), run(0.75, None, "unstructured")]) == {"": [0, 1]}
    assert list(named([run(0.5, None), run(0.5, "rigl")])) == ["unnamed", "rigl"]
    assert named([]) == {}


def test_a_group_is_chosen_by_its_name_or_by_one_of_its_patterns() -> None:
    names = ["gmp unstructured", "gmp n:4"]
    assert chosen(None, names) == "gmp unstructured"
    assert chosen("gmp 2:4", names) == chosen("gmp n:4", names) == "gmp n:4"
    with pytest.raises(UnknownGroup, match="no group 'rigl': the groups are gmp unstructured, gmp n:4"):
        chosen("rigl", names)
    assert chosen("", []) == ""
    with pytest.raises(UnknownGroup, match="one law describes all runs"):
        chosen("2:4", [""])
