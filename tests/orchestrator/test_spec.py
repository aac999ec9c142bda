"""A spec is read whole or refused whole, with every problem, its place and what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.spec import Spec, SpecError, load_spec, load_spec_file, reference
from orchestrator.spec.cells import cells
from tests.orchestrator.texts import SMALL
from trainer.program import key_of


def problems(text: str | bytes) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        load_spec(text)
    return {problem.path: problem.message for problem in refused.value.problems}


def test_a_spec_has_every_default_written_out() -> None:
    spec = load_spec(SMALL)
    assert spec.canonical()["pruning"] == {
        "method": "gmp",
        "pattern": "unstructured",
        "distribution": "uniform",
        "start": 0.25,
        "end": 0.75,
        "every": 10,
        "rounds": 3,
    }


def test_reading_back_what_a_spec_stands_for_gives_the_same_spec() -> None:
    spec = load_spec(SMALL)
    assert Spec.model_validate(spec.canonical()) == spec


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("16e3", "16000.0").replace("1e6", "1_000_000"),
        lambda text: text + "# a comment\n",
        lambda text: text.replace("{every: 10}", "{every: 10, start: 0.25, end: 7.5e-1, method: gmp}"),
        lambda text: "\n".join([*text.splitlines()[1:], text.splitlines()[0]]),
    ],
    ids=["float spelling", "comment", "defaults written out", "key order"],
)
def test_spelling_does_not_change_what_a_spec_is(rewrite) -> None:  # type: ignore[no-untyped-def]
    assert key_of(load_spec(rewrite(SMALL)).canonical()) == key_of(load_spec(SMALL).canonical())


def test_a_period_may_be_a_share_of_the_run_as_acdcs_phases_are() -> None:
    """RECIPE section 4: dense to 10 %, phases of 1 % of the run each."""
    lengths = SMALL.replace("steps: [80, 160, 320]", "steps: [200, 1000]")
    for pruning in ("{method: acdc}", "{method: acdc, every: 0.01}"):
        spec = load_spec(lengths.replace("{every: 10}", pruning))
        windows = {
            cell.steps: (chosen.start, chosen.end, chosen.every)
            for cell in cells(spec)[0]
            if (chosen := cell.pruning_in_steps()).sparsity
        }
        assert windows == {200: (20, 180, 2), 1000: (100, 900, 10)}
    assert "whole number of steps, or a share" in problems(SMALL.replace("10}", "2.5}"))["pruning.every"]


def test_every_problem_is_told_at_once_with_line_value_and_what_would_be_right() -> None:
    text = (
        "name: Foo\n"
        "model: {family: t5, d_modle: 3}\n"
        "data: {source: ./nowhere.txt}\n"
        "grid:\n"
        "  nonzero_params: [1.0e6]\n"
        "  sparsity: [0, 1.0, x]\n"
        "  stepz: 3\n"
        "  steps: [100]\n"
        "prunning: 3\n"
    )
    with pytest.raises(SpecError) as refused:
        load_spec(text, "foo.yaml")
    found = {problem.path: problem for problem in refused.value.problems}
    assert {path: problem.line for path, problem in found.items()} == {
        "name": 1,
        "model.d_modle": 2,
        "data.source": 3,
        "grid.sparsity[1]": 6,
        "grid.sparsity[2]": 6,
        "grid.stepz": 7,
        "prunning": 9,
    }
    assert "did you mean `d_model`" in found["model.d_modle"].message
    assert "did you mean `pruning`" in found["prunning"].message
    assert found["grid.sparsity[1]"].value == 1.0
    assert "less than 1" in found["grid.sparsity[1]"].message
    assert str(refused.value).startswith("foo.yaml: 7 problems\n")


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        (("name: small", "name: ../../etc"), "name", "lower-case"),
        (("family: t5", "family: t6"), "model.family", "t5"),
        (("heads: 4", "heads: four"), "model.heads", "whole number"),
        (("sparsity: [0, 0.5, 0.75]", "sparsity: [0, 1]"), "grid.sparsity[1]", "less than 1"),
        (("sparsity: [0, 0.5, 0.75]", "sparsity: [-0.1]"), "grid.sparsity[0]", "greater than or equal to 0"),
        (("sparsity: [0, 0.5, 0.75]", "sparsity: [.nan]"), "grid.sparsity[0]", "finite"),
        (("sparsity: [0, 0.5, 0.75]", "sparsity: [0, 0.5, 0.5]"), "grid.sparsity[2]", "twice"),
        (("sparsity: [0, 0.5, 0.75]", "sparsity: []"), "grid.sparsity", "at least 1"),
        (("steps: [80, 160, 320]", "steps: [80, 90]"), "grid.steps", "pruning.every"),
        (("steps: [80, 160, 320]", "steps: [80.5]"), "grid.steps[0]", "integer"),
        (("nonzero_params: [16e3,", "nonzero_params: [3,"), "grid.nonzero_params[0]", "too small"),
        (("{every: 10}", "{every: 10, pattern: '2:4'}"), "grid.sparsity", "means a sparsity of 0.5"),
        (("{every: 10}", "{every: 10, pattern: '4:2'}"), "pruning.pattern", "n:m with n < m"),
        (
            ("training: {", "training: {weight_decay: 0.1, "),
            "training.weight_decay",
            "use adafactor-vit or adamw",
        ),
        (
            ("{every: 10}", "{every: 10, method: rigl, pattern: 'block:4x4'}"),
            "pruning.pattern",
            "moves single weights",
        ),
        (
            ("{every: 10}", "{every: 10, pattern: channel, distribution: erk}"),
            "pruning.distribution",
            "use distribution uniform",
        ),
        (("source: python-source", "source: digits"), "data.source", "t5 reads text"),
        (
            ("source: python-source", "source: python-source, crop_padding: 2"),
            "data.crop_padding",
            "leave it out",
        ),
        (("{every: 10}", "{every: 10, start: 0.8}"), "grid.steps", "from step 256 to 240"),
        (("warmup: 40", "warmup: 40, cooldown: 100"), "training.learning_rate.cooldown", "80 steps"),
        (
            ("warmup: 40", "schedule: cosine, warmup: 40, cooldown: 9"),
            "training.learning_rate.cooldown",
            "cosine has none",
        ),
        (("{every: 10}", "{method: ste, start: 0.1, end: 0.2, every: 30}"), "grid.steps", "no update falls"),
        (
            ("sparsity: [0, 0.5, 0.75]", "sparsity: [0.75]\n  pattern: ['1:4']"),
            "grid.nonzero_params[1]",
            "multiple_of: 4",
        ),
        (("data: {source: python-source", "data: {source: ./gone.parquet"), "data.source", "no such file"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    change: tuple[str, str], path: str, says: str
) -> None:
    assert change[0] in SMALL
    found = problems(SMALL.replace(*change))
    assert path in found, found
    assert says in found[path]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("- 1", "must be a mapping"),
        ("a: [1", "not YAML"),
        ("name: x\nname: y", "stands twice"),
        ("a: &a [*a]", "nested deeper"),
        ("a: !!python/object/apply:os.system [ls]", "has the tag"),
        (b"\xff\xfe", "not UTF-8"),
        ("a: " + "[" * 50 + "]" * 50, "nested deeper"),
        ("x" * (2 << 20), "characters long"),
        ("a: &a 1\nb: [" + ", ".join(["*a"] * 200) + "]", "aliases"),
    ],
)
def test_a_text_that_is_no_spec_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load_spec(text)


def test_aliases_that_fan_out_are_refused_before_they_fill_the_memory() -> None:
    layers = ["a0: &a0 [" + ", ".join(["x"] * 9) + "]"]
    layers += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 9)]
    with pytest.raises(SpecError, match="too many values"):
        load_spec("\n".join(layers))


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.yaml: 1 problem\n.*cannot be read"):
        load_spec_file(tmp_path / "gone.yaml")


def test_the_grid_is_the_product_plus_extra_minus_excluded_cells() -> None:
    text = SMALL.replace(
        "pruning:",
        "  extra: [{nonzero_params: 16e3, sparsity: 0.875, steps: 80}]\n"
        "  exclude: [{sparsity: [0.5, 0.75], nonzero_params: 64e3}]\n"
        "pruning:",
    )
    found, wrong = cells(load_spec(text))
    assert not wrong
    assert len(found) == 27 + 1 - 6
    assert not [cell for cell in found if cell.nonzero_params == 64e3 and cell.sparsity]
    assert found[-1].sparsity == 0.875


def test_a_dense_cell_is_one_cell_whatever_the_pattern() -> None:
    text = SMALL.replace("sparsity: [0, 0.5, 0.75]", "sparsity: [0, 0.5]\n  pattern: [unstructured, '2:4']")
    text = text.replace("heads: 4", "heads: 4, multiple_of: 4")
    found, wrong = cells(load_spec(text))
    assert not wrong
    # 3 sizes × 3 lengths × (dense, unstructured 50 %, 2:4)
    assert len(found) == 27


def test_each_method_has_its_own_window_unless_one_is_chosen() -> None:
    text = SMALL.replace("{every: 10}", "{every: 1}")
    text = text.replace("sparsity: [0, 0.5, 0.75]", "sparsity: [0.5]\n  method: [gmp, oneshot, static]")
    found, wrong = cells(load_spec(text))
    assert not wrong
    windows = {cell.pruning.method: (cell.pruning.start, cell.pruning.end) for cell in found}
    assert windows == {"gmp": (0.25, 0.75), "oneshot": (0.5, 0.5), "static": (0.0, 0.0)}
    own = SMALL.replace("pruning: {every: 10}\n", "").replace(
        "[80, 160, 320]", "[800, 1600]\n  method: [gmp, acdc]"
    )
    periods = {
        (cell.steps, pruning.method): pruning.every
        for cell in cells(load_spec(own))[0]
        if (pruning := cell.pruning_in_steps()).sparsity
    }
    assert periods == {(800, "gmp"): 100, (800, "acdc"): 8, (1600, "gmp"): 100, (1600, "acdc"): 16}
    chosen, _ = cells(load_spec(text.replace("{every: 1}", "{every: 1, start: 0.1, end: 0.5, method: gmp}")))
    assert {(cell.pruning.start, cell.pruning.end) for cell in chosen} == {(0.1, 0.5)}


def test_rounds_of_imp_fill_each_run_whatever_its_length() -> None:
    text = SMALL.replace("pruning: {every: 10}", "pruning: {method: imp, start: 0.1, rounds: 2}")
    found, _ = cells(load_spec(text))
    steps = {cell.steps: cell.pruning_in_steps() for cell in found if cell.sparsity == 0.75}
    assert {(one.start, one.end, one.every) for one in steps.values()} == {
        *((8, 56, 24), (16, 112, 48), (32, 224, 96))
    }
    said = problems(text.replace("rounds: 2", "end: 0.9"))
    assert said == {"pruning": "imp ends by its rounds: leave `end` out, and set `start` and `rounds`"}
    said = problems(text.replace("rounds: 2", "rounds: 100"))
    assert said == {"grid.steps": "a round of imp has no step: take fewer rounds or more steps"}


def test_the_shipped_examples_are_valid() -> None:
    examples = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        load_spec_file(path)


def test_the_published_reference_is_the_schema_that_is_enforced() -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "spec.md").read_text() == reference.markdown()
    assert json.loads((docs / "spec.schema.json").read_text()) == reference.json_schema()
