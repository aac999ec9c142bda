"""`lacuna fit` and `lacuna compare`: one document on stdout, plain text otherwise, exit code 2 for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fitter.law import Law
from orchestrator.command.compare import command as compare
from orchestrator.command.fit import command as fit
from orchestrator.command.optimum import command as optimum
from tests.fitter.designs import OPTIMUM_T5, t5_points, table_of


@pytest.fixture
def path(tmp_path: Path, noisy_table: dict[str, Any]) -> str:
    """`noisy_table` as a CSV file."""
    pd.DataFrame(noisy_table).to_csv(tmp_path / "runs.csv", index=False)
    return str(tmp_path / "runs.csv")


def test_json_is_the_law_and_nothing_else(path: str, noisy_law: Law) -> None:
    result = CliRunner().invoke(fit, [path, "--json"])
    assert result.exit_code == 0
    assert Law.from_json(result.stdout) == noisy_law
    assert result.stderr == ""


def test_options_reach_the_fit(path: str, tmp_path: Path) -> None:
    out = tmp_path / "law.json"
    options = ["--form", "average-params", "--residual", "raw", "--huber-delta", "0.01", "--level", "0.5"]
    result = CliRunner().invoke(fit, [path, *options, "--out", str(out), "--json"])
    assert result.exit_code == 0
    law = Law.load(out)
    assert law.form == "average-params"
    assert (law.settings["residual"], law.settings["huber_delta"], law.level) == ("raw", 0.01, 0.5)


def test_a_transfer_takes_its_base_from_a_file(path: str, tmp_path: Path, noisy_law: Law) -> None:
    noisy_law.save(tmp_path / "base.json")
    result = CliRunner().invoke(
        fit, [path, "--form", "sparsity-transfer", "--base", str(tmp_path / "base.json"), "--json"]
    )
    assert json.loads(result.stdout)["coefficients"]["b_N"] == noisy_law.coefficients["b_N"]


def test_the_text_says_what_is_not_identified(t5_path: Path) -> None:
    result = CliRunner().invoke(fit, [str(t5_path)])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "not identified by these runs" in lines["b_D"]
    assert "1.34497" in lines["b_S"]
    assert "starts reached this optimum" in result.stdout
    assert "data spans a factor of 4" in result.stdout


def test_bad_tables_exit_with_two_and_name_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("sparsity,nonzero_params,data,loss\n75,1e6,1e9,2\n0,1e6,1e9,nan\n")
    for command in (fit, compare):
        result = CliRunner().invoke(command, [str(path)])
        assert result.exit_code == 2
        assert "row 1: sparsity is 1 or more" in result.stderr
        assert "row 2: loss is missing or NaN" in result.stderr
        assert result.stdout == ""


def test_a_narrow_sweep_exits_with_two_and_says_what_to_run(
    tmp_path: Path, noisy_table: dict[str, Any]
) -> None:
    frame = pd.DataFrame(noisy_table)
    frame[frame["sparsity"] == 0].to_csv(tmp_path / "dense.csv", index=False)
    result = CliRunner().invoke(fit, [str(tmp_path / "dense.csv")])
    assert result.exit_code == 2
    assert "add runs at sparsity 0.5 and 0.75" in result.stderr


@pytest.mark.parametrize("arguments", [["gone.csv"], ["--form", "cubic"], ["--huber-delta", "-1"]])
def test_wrong_arguments_exit_with_two(path: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(fit, arguments if arguments[0] == "gone.csv" else [path, *arguments])
    assert result.exit_code == 2


def test_compare_ranks_forms(path: str) -> None:
    result = CliRunner().invoke(compare, [path])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].startswith("sparsity ")
    assert any(line.startswith("left out: data-constrained") for line in lines)
    document = json.loads(CliRunner().invoke(compare, [path, "--json"]).stdout)
    assert document["forms"][0]["form"] == "sparsity"


def test_runs_that_say_nothing_of_the_gain_are_shown_as_such(tmp_path: Path) -> None:
    table = table_of(t5_points(), OPTIMUM_T5)
    table["loss"] = np.exp(np.random.default_rng(0).normal(0.7, 0.3, 48))
    pd.DataFrame(table).to_csv(tmp_path / "noise.csv", index=False)
    result = CliRunner().invoke(fit, [str(tmp_path / "noise.csv")])
    assert result.exit_code == 0
    assert "not identified by these runs" in result.stdout
    assert "unknown" in result.stdout


def test_an_optimum_at_the_end_of_what_is_searched_is_told_as_that(path: str, tmp_path: Path) -> None:
    law = tmp_path / "law.json"
    law.write_text(CliRunner().invoke(fit, [path, "--json"]).stdout)
    question = ["--law", str(law), "--params", "1e6"]
    far = CliRunner().invoke(optimum, [*question, "--flops", "1e36"])
    assert far.exit_code == 0
    assert "no more than 99.9 % is looked at" in far.stdout
    assert "is looked at" not in CliRunner().invoke(optimum, [*question, "--flops", "1e16"]).stdout
