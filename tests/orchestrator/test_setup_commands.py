"""`lacuna init`, `completion`, `doctor` and `watch`: what people meet before and beside a sweep."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from ledger.models import Run, Sweep
from ledger.settings import Settings
from orchestrator.command import doctor
from orchestrator.command.main import cli
from orchestrator.spec import load_spec_file
from orchestrator.spec.cells import cells
from tests.service import grid


@pytest.mark.parametrize("family", ["decoder", "t5", "vit", "encoder"])
def test_the_spec_that_init_writes_is_valid(tmp_path: Path, family: str) -> None:
    path = tmp_path / "first.yaml"
    done = CliRunner().invoke(cli, ["init", str(path), "--yes", "--family", family], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    spec = load_spec_file(path)
    assert (spec.model.family, len(cells(spec)[0])) == (family, 36)
    assert path.read_text().count("#") > 8


def test_init_takes_answers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    answers = ["--params=1.3M, 5.3e6 21M", "--steps=250k,500k", "--sparsity=[0, .5]", "--source=allenai/c4"]
    done = CliRunner().invoke(cli, ["init", str(path), "-y", "--family=t5", *answers], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    axes = load_spec_file(path).grid
    assert (axes.nonzero_params, axes.steps, axes.sparsity) == (
        [1.3e6, 5.3e6, 2.1e7],
        [250_000, 500_000],
        [0, 0.5],
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params=many"], "'many' is no number"),
        (["--steps="], ""),
        (["--family=mlp"], "must be one of"),
        (["--source=./nowhere"], "data.source"),
        (["--sparsity=0,2"], "grid.sparsity[1]"),
        (["--name=Not a name"], "lower-case"),
    ],
)
def test_init_writes_nothing_that_is_not_valid(tmp_path: Path, arguments: list[str], said: str) -> None:
    path = tmp_path / "first.yaml"
    done = CliRunner().invoke(cli, ["init", str(path), "-y", *arguments])
    if said:
        assert done.exception is not None
        assert said in str(done.exception)
        assert not path.exists()
    else:  # an empty answer is the default
        assert path.exists()


def test_init_leaves_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("mine")
    assert "--force" in str(CliRunner().invoke(cli, ["init", str(path), "-y"]).exception)
    assert path.read_text() == "mine"
    assert CliRunner().invoke(cli, ["init", str(path), "-y", "--force"]).exit_code == 0


def test_a_shell_completes_commands_without_importing_them() -> None:
    probe = (
        "import sys; sys.argv = ['lacuna']\n"
        "from orchestrator.command.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('orchestrator.command.')], file=sys.stderr)"
    )
    environment = {"_LACUNA_COMPLETE": "bash_complete", "COMP_WORDS": "lacuna pr", "COMP_CWORD": "1"}
    import os

    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,predict\n"
    assert done.stderr.strip() == "['orchestrator.command.main']"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert "_LACUNA_COMPLETE" in done.output


def findings(**environment: str) -> dict[str, doctor.Finding]:
    """What the doctor says, by what was looked at; the last word on each."""
    settings = Settings.from_environment({f"LACUNA_{name}": value for name, value in environment.items()})
    return {finding.what: finding for finding in doctor.examine(settings)}


def test_doctor_finds_a_set_up_that_works_in_order(home: Path, database_url: str, tmp_path: Path) -> None:
    found = findings(HOME=str(home), DATABASE_URL=database_url, TRACKING_URI=f"sqlite:///{tmp_path}/m.db")
    # What torch sees is the machine's, not the set-up's.
    assert {name for name, finding in found.items() if finding.state == "wrong"} <= {"torch", "torch_xla"}
    assert {
        "Python",
        "machine",
        "LACUNA_HOME",
        "storage",
        "torch",
        "Ray",
        "ledger",
        "clock",
        "MLflow",
    } <= set(found)


def test_doctor_says_what_is_wrong_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = findings(
        HOME=str(blocked / "home"),
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        TRACKING_URI="http://127.0.0.1:1",
        STORAGE_URL=str(blocked / "storage"),
    )
    for name in ("LACUNA_HOME", "storage", "Ray", "ledger", "MLflow"):
        assert found[name].state == "wrong", found
        assert found[name].mend, name


@pytest.mark.parametrize(
    ("part", "modules"),
    [("service", ["torch", "ray", "mlflow"]), ("controller", ["torch"]), ("trainer", [])],
)
def test_doctor_misses_nothing_that_an_image_is_spared(
    part: str, modules: list[str], home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in modules else find_spec(name))
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    nobody = "http://127.0.0.1:1"
    told = {} if part == "trainer" else {"DATABASE_URL": database_url, "TRACKING_URI": nobody}
    found = findings(HOME=str(home), PART=part, **told)
    for name, who in doctor.ELSEWHERE[part].items():
        assert found[name].state == "ok", found[name]
        assert found[name].found.endswith(who)
    assert found["ledger"].found.startswith("Postgres") == (part != "trainer")


def test_doctor_misses_it_everywhere_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "TRACKING_URI": "http://127.0.0.1:1"}
    assert findings(HOME=str(home), **nowhere)["torch"].state == "wrong"


def test_doctor_compares_the_clock_with_that_of_the_ledger() -> None:
    now = time.time()
    assert [finding.state for finding in doctor.clock(now, now - 0.1)] == ["ok"]
    (late,) = doctor.clock(now, now + 90)
    assert (late.state, "90 s behind the ledger's" in late.found) == ("warning", True)
    (old,) = doctor.clock(1.6e9, 1.6e9)
    assert (old.state, "timedatectl" in old.mend) == ("wrong", True)


def test_watch_tells_of_a_sweep_until_its_last_law(
    engine: Engine, session: Session, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.command import watch

    sweep = grid.plant_grid(session)
    shown: list[int] = []  # runs done, at each look
    real = watch._display

    @contextmanager
    def display(*, quiet: bool) -> Iterator[Callable[[watch.View, bool], None]]:
        with real(quiet=quiet) as show:

            def both(view: watch.View, last: bool) -> None:
                show(view, last)
                assert view.progress is not None
                shown.append(view.progress.runs.completed)

            yield both

    def seen(runs: int) -> None:
        deadline = time.monotonic() + 120
        while runs not in shown:
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)

    def finish() -> None:
        seen(0)
        with Session(engine) as other:
            there = other.get_one(Sweep, sweep.id)
            grid.complete(other, there, {"steps": 1000})
            seen(16)
            grid.complete(other, there)
            there.state = "completed"  # type: ignore[assignment]
            grid.store_law(other, there)

    monkeypatch.setattr(watch, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(watch, "_display", display)
    threading.Thread(target=finish, daemon=True).start()
    url = engine.url.render_as_string(hide_password=False)
    environment = {"LACUNA_DATABASE_URL": url, "LACUNA_HOME": str(home)}
    done = CliRunner().invoke(cli, ["watch", "grid"], env=environment, catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0, done.output
    assert "grid active: 0% of the steps, 0/48 runs done" in lines[0]
    assert any("16/48 runs done" in line for line in lines)
    assert lines[-1].startswith("grid completed: 100% of the steps, 48/48 runs done, 0 running, best loss 2.")
    assert "law version 1 (gain at 87.5 %:" in lines[-1]


def test_watch_of_a_sweep_with_failed_runs_ends_with_code_1_and_one_document(
    engine: Engine, session: Session, home: Path
) -> None:
    sweep = grid.plant_grid(session)
    grid.complete(session, sweep, {"steps": 1000})
    session.execute(
        update(Run).where(Run.sweep_id == sweep.id, Run.state == "pending").values(state="failed")
    )
    sweep.state = "cancelled"  # type: ignore[assignment]
    session.commit()
    environment = {
        "LACUNA_DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "LACUNA_HOME": str(home),
    }
    done = CliRunner().invoke(cli, ["watch", "grid", "--json"], env=environment, catch_exceptions=False)
    document: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code, document["progress"]["runs"]["failed"], document["law"]) == (1, 32, None)


def test_the_live_view_shows_progress_best_losses_and_the_law(fitted_view: Any) -> None:
    from rich.console import Console

    from orchestrator.command.watch import _page

    out = Console(width=100, record=True)
    out.print(_page(fitted_view))
    text = out.export_text()
    for said in ("grid", "48 of 48 done", "best runs", "law version 1, 48 runs", "87.5 %"):
        assert said in text, text


@pytest.fixture
def fitted_view(engine: Engine, session: Session, settings: Settings) -> Any:
    """What watch knows of a finished sweep."""
    from orchestrator.command.ledger_source import LedgerSource
    from orchestrator.command.watch import View

    sweep = grid.plant_grid(session)
    grid.complete(session, sweep)
    grid.store_law(session, sweep)
    source = LedgerSource(settings, engine)
    losses = {row["name"]: row["loss"] for row in source.runs("grid")}
    view = View("grid", law=source.law("grid"), losses=losses)
    view.take(next(source.events("grid")), lambda: None)
    return view
