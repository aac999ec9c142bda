"""Two programs share exactly the prefix on which all their step functions agree, and the forest trains it once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.forest import forest
from orchestrator.plan.plan import build
from orchestrator.plan.programs import torch_version
from orchestrator.spec import load_spec
from tests.orchestrator.texts import SMALL
from trainer.program import (
    DataStream,
    LearningRate,
    Numerics,
    Program,
    ProgramError,
    Pruning,
    Switch,
    key_of,
)


def program(steps: int = 400, sparsity: float = 0.5, **changes: Any) -> Program:
    values: dict[str, Any] = {
        "family": "t5",
        "shape": {"d_model": 16},
        "data": DataStream(digest="d"),
        "batch_size": 8,
        "pruning": Pruning(sparsity=sparsity, start=steps // 4, end=3 * steps // 4, every=10),
    }
    return Program(steps=steps, **{**values, **changes})


steps = st.integers(1, 10).map(lambda i: 40 * i)
programs = st.builds(
    lambda steps, sparsity, seed, cooldown, schedule: program(
        steps,
        sparsity,
        seed=seed,
        learning_rate=LearningRate(schedule=schedule, cooldown=cooldown if schedule == "rsqrt" else 0),
    ),
    steps,
    st.sampled_from([0.0, 0.5, 0.75]),
    st.integers(0, 1),
    st.sampled_from([0, 20]),
    st.sampled_from(["rsqrt", "constant", "cosine"]),
)


def behaviour(value: Program, step: int) -> object:
    """What a program does at one step, read naively from its parts: the reference for the piecewise comparison."""
    rate = value.learning_rate
    pruning = value.pruning
    cooling = rate.cooldown and step >= value.steps - rate.cooldown
    horizon = value.steps if cooling or rate.schedule == "cosine" else None
    begun = pruning.sparsity > 0 and step >= pruning.start
    return (
        value.static(),
        rate.schedule,
        horizon,
        rate.cooldown if cooling else 0,
        pruning if begun else None,
    )


@given(programs, programs)
def test_states_have_one_key_exactly_as_far_as_all_step_functions_agree(a: Program, b: Program) -> None:
    alike = True
    for step in range(min(a.steps, b.steps)):
        alike = alike and behaviour(a, step) == behaviour(b, step)
        assert (a.key_at(step + 1) == b.key_at(step + 1)) == alike


@given(st.lists(programs, min_size=1, max_size=12))
def test_every_run_is_a_path_from_step_0_to_its_end_with_nothing_trained_twice(runs: list[Program]) -> None:
    grown = forest([(run, 1.0) for run in runs])
    segments = {segment.key: segment for segment in grown.segments}
    assert len(segments) == len(grown.segments)
    for run, path in zip(runs, grown.paths, strict=True):
        at = 0
        parent = None
        for key in path:
            segment = segments[key]
            assert (segment.start, segment.parent) == (at, parent)
            assert key == run.key_at(segment.end)
            at, parent = segment.end, key
        assert at == run.steps
    # Every edge lies on a multiple of 10: count the distinct states independently, ten steps at a time.
    states = {run.key_at(step) for run in runs for step in range(10, run.steps + 1, 10)}
    assert sum(segment.end - segment.start for segment in grown.segments) == 10 * len(states)


@given(st.lists(programs, min_size=1, max_size=8))
def test_parents_stand_before_their_children_and_are_at_least_as_urgent(runs: list[Program]) -> None:
    seen: dict[str, int] = {}
    for segment in forest([(run, 1e9) for run in runs]).segments:
        if segment.parent is not None:
            assert seen[segment.parent] > segment.priority
        seen[segment.key] = segment.priority


#: Of fields whose text is a name: another name that exists.
OTHER_NAME = {"method": "oneshot", "pattern": "block:2x2", "distribution": "erk", "schedule": "constant"}


def test_whatever_changes_a_result_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field there is, so that a new one cannot be left out."""
    switched = Switch(at=300, data=DataStream(digest="e"))
    base = program(then=switched, numerics=Numerics(torch_version="2.9"))
    monkeypatch.setattr(
        "trainer.program.problems_of", lambda program: []
    )  # keys of what could not be trained, too
    silent = set()
    for path, value in leaves(base.to_dict()):
        changed = base.to_dict()
        part = changed
        for name in path[:-1]:
            part = part[name]
        named = OTHER_NAME.get(path[-1], f"{value}x")
        if isinstance(value, bool):
            part[path[-1]] = not value
        else:
            part[path[-1]] = named if isinstance(value, str) else value + 1
        found = Program.from_dict(changed)
        if found.key_at(400) == base.key_at(400):
            silent.add(".".join(path))
        elif path[0] not in ("pruning", "then") and path[-1] != "cooldown":
            assert found.key_at(1) != base.key_at(1), path
    assert silent == {"steps", "start.url"}, "how long it goes on, and where its weights lay"


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of everything in a mapping of mappings."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from leaves(item, (*path, name))
        else:
            yield (*path, name), item


def test_a_key_is_the_same_in_every_process_and_for_every_spelling_of_a_number() -> None:
    assert key_of({"b": 1.0, "a": [1e6, "x"]}) == key_of({"a": (1000000, "x"), "b": 1})
    # A fixed value: a key that changed between versions would orphan every stored result.
    assert key_of({"a": 0.1}) == "9e3d5635fc1c09ff15c19f1089a0bfe03fbd8329cca722f9a2227060ac77dcaa"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_a_key_refuses_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(ProgramError, match=r"\$\.x"):
        key_of({"x": value})


def test_a_program_survives_json() -> None:
    assert Program.from_dict(program().to_dict()) == program()


def test_a_schedule_that_never_reaches_its_target_is_refused() -> None:
    with pytest.raises(ProgramError, match="never be reached"):
        program(pruning=Pruning(sparsity=0.5, start=100, end=305, every=10))


def test_the_plan_counts_what_sharing_saves() -> None:
    plan = build(load_spec(SMALL), data_digest="d")
    document = plan.document()
    assert document["runs"] == 27
    # Dense shapes 16k, 32k, 64k serve lengths and sparsities; every sparse run starts on a dense trunk.
    alone = sum(run.flops_per_step * run.cell.steps for run in plan.runs)
    assert document["flops"]["alone"] == pytest.approx(alone)
    trained = sum(segment.flops for segment in plan.segments)
    assert document["flops"]["shared"] == pytest.approx(trained)
    assert 0.1 < document["saved"] == pytest.approx(1 - trained / alone)


def test_a_sweep_of_one_length_and_no_pruning_shares_nothing() -> None:
    text = SMALL.replace("[0, 0.5, 0.75]", "[0]").replace("[80, 160, 320]", "[80]")
    plan = build(load_spec(text), data_digest="d")
    assert plan.saved == pytest.approx(0)
    assert plan.runs_sharing == 0


def test_completed_states_are_reused() -> None:
    plan = build(load_spec(SMALL), data_digest="d")
    again = plan.with_completed([segment.key for segment in plan.segments])
    assert (again.flops_left, again.document()["reused"]) == (0, len(plan.segments))


def test_warnings_name_what_will_disappoint() -> None:
    text = SMALL.replace("base: 0.25", "schedule: cosine, base: 0.25").replace("[80, 160, 320]", "[80, 160]")
    warnings = " ".join(build(load_spec(text)).warnings())
    assert "cosine" in warnings
    assert "data has 2 levels" in warnings
    assert "not prepared" in warnings


@given(programs, st.integers(1, 400))
def test_a_key_is_that_of_its_parts_written_out(run: Program, step: int) -> None:
    step = min(step, run.steps)
    history, begin = [], 0
    for piece in run.history():
        if begin < step:
            history.append([min(piece.until, step), piece.does])
        begin = piece.until
    assert run.key_at(step) == key_of({"static": run.static(), "history": history})
    assert json.loads(run.static_text()) == run.static()


def test_a_planner_without_torch_writes_the_workers_version_into_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LACUNA_TORCH_VERSIONS", "2.12,xla=2.9")
    torch_version.cache_clear()
    try:
        assert [torch_version(device) for device in ("cuda", "xla")] == ["2.12", "2.9"]
    finally:
        torch_version.cache_clear()
