"""The command as a person or a script meets it: help, exit codes, one JSON document on stdout."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine

from ledger.settings import Settings
from orchestrator.command.main import COMMANDS
from orchestrator.command.output import table
from orchestrator.submit import submit_text
from tests.orchestrator.texts import SMALL

HEAVY = (
    "torch",
    "ray",
    "mlflow",
    "pandas",
    "scipy",
    "sqlalchemy",
    "transformers",
    "datasets",
    "matplotlib",
    "pydantic",
)


def lacuna(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.command.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from orchestrator.command.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = lacuna(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"lacuna {name} " in done.stdout or f"lacuna {name}\n" in done.stdout


def test_a_command_that_does_not_exist_suggests_one_that_does() -> None:
    done = lacuna("predikt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean `predict`?" in done.stderr


def test_validate_says_all_that_is_wrong_and_exits_with_2(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(SMALL.replace("[0, 0.5, 0.75]", "[0, 2]").replace("every:", "evry:"))
    done = lacuna("validate", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "wrong.yaml: 2 problems" in done.stderr
    assert "line 6: grid.sparsity[1]" in done.stderr
    assert "did you mean `every`?" in done.stderr


def test_validate_as_json_is_one_document_either_way(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SMALL)
    done = lacuna("validate", str(path), "--json")
    assert (done.returncode, json.loads(done.stdout)["runs"]) == (0, 27)
    path.write_text(SMALL.replace("[0, 0.5, 0.75]", "[0, 2]"))
    done = lacuna("validate", str(path), "--json")
    problem = json.loads(done.stdout)["problems"][0]
    assert done.returncode == 2
    assert (problem["path"], problem["line"], problem["value"]) == ("grid.sparsity[1]", 6, 2)


def test_run_refuses_a_wrong_spec_before_anything_is_written(tmp_path: Path, database_url: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(SMALL.replace("python-source", "./nowhere"))
    home = tmp_path / "home"
    done = lacuna("run", str(path), LACUNA_HOME=str(home), LACUNA_DATABASE_URL=database_url)
    assert done.returncode == 2
    assert "line 3: data.source" in done.stderr
    assert not home.exists()


def test_plan_shows_the_saving_and_needs_no_prepared_data(tmp_path: Path, database_url: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SMALL)
    environment = {"LACUNA_HOME": str(tmp_path / "home"), "LACUNA_DATABASE_URL": database_url}
    done = lacuna("plan", str(path), "--json", **environment)
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["runs"], plan["reused"]) == (0, 27, 0)
    assert plan["flops"]["shared"] < plan["flops"]["alone"]
    shown = lacuna("plan", str(path), **environment)
    assert f"saves {100 * plan['saved']:.4g} %" in shown.stdout


def test_a_database_that_does_not_answer_is_one_line_with_its_url(tmp_path: Path) -> None:
    url = "postgresql://someone:secret@127.0.0.1:1/nothing"
    done = lacuna("sweeps", LACUNA_HOME=str(tmp_path), LACUNA_DATABASE_URL=url)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1/nothing" in done.stderr
    assert "LACUNA_DATABASE_URL" in done.stderr
    assert "secret" not in done.stderr


def test_questions_about_what_does_not_exist_name_what_does(tmp_path: Path, database_url: str) -> None:
    environment = {"LACUNA_HOME": str(tmp_path), "LACUNA_DATABASE_URL": database_url}
    for arguments in (
        ["law", "nothing"],
        ["status", "nothing"],
        ["pause", "nothing"],
        ["predict", "--sweep=nothing", "-S0", "-N1", "-D1"],
    ):
        done = lacuna(*arguments, **environment)
        assert done.returncode == 2
        assert "there is no sweep named 'nothing'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_token_is_shown_once_listed_and_revoked(tmp_path: Path, database_url: str) -> None:
    environment = {"LACUNA_HOME": str(tmp_path), "LACUNA_DATABASE_URL": database_url}
    made = lacuna("token", "create", "alice", "--write", "--days", "3", **environment)
    identity = made.stdout.split("_")[1]
    listed = lacuna("token", "list", **environment).stdout
    assert identity in listed
    assert "read write  valid" in listed
    assert made.stdout.strip() not in listed
    assert lacuna("token", "revoke", identity, **environment).returncode == 0
    assert "revoked" in lacuna("token", "list", **environment).stdout
    again = lacuna("token", "revoke", identity, **environment)
    assert (again.returncode, again.stdout) == (2, "")
    assert "no valid token" in again.stderr


def test_gc_of_an_empty_ledger_removes_nothing(tmp_path: Path, database_url: str) -> None:
    environment = {"LACUNA_HOME": str(tmp_path), "LACUNA_DATABASE_URL": database_url}
    done = lacuna("gc", "--json", **environment)
    assert json.loads(done.stdout) == {"removed": True, "bytes": 0, "items": []}


def test_status_of_a_new_sweep_says_what_its_law_lacks(
    tmp_path: Path, database_url: str, engine: Engine, small: str
) -> None:
    submit_text(Settings(home=tmp_path), engine, small)
    done = lacuna("status", "small", LACUNA_HOME=str(tmp_path), LACUNA_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert "0 of 27 done" in done.stdout
    assert "27 of 27 runs are still to come" in done.stdout
    assert "add runs" not in done.stdout


def test_a_narrow_terminal_cuts_no_number() -> None:
    drawn = io.StringIO()
    Console(file=drawn, width=12).print(table([">cost", ">gain"], [("12345.6789", "98765.4321")]))
    digits = [line.split() for line in drawn.getvalue().splitlines()[1:]]
    assert ["".join(column) for column in zip(*digits, strict=True)] == ["12345.6789", "98765.4321"]
