"""The refit loop on a real ledger."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitter import refit
from fitter.refit import Refitter
from ledger import fits, sweeps
from ledger.errors import LedgerError
from ledger.models import Run
from tests.controller.watching import rows, until
from tests.tracking.sweep_with_law import finish_all, plant_grid


def test_before_the_law_is_identified_it_says_what_is_missing(session: Session, engine: Engine) -> None:
    cells = plant_grid(session, "grid")
    refitter = Refitter(engine)
    (awaited,) = refitter.status("grid").missing
    assert f"{len(cells)} of {len(cells)} runs are still to come" in awaited
    finish_all(engine, cells[:3])
    status = refitter.refit("grid")
    assert (status.runs, status.identified, status.version) == (3, False, None)
    assert status.missing == [awaited.replace(str(len(cells)), str(len(cells) - 3), 1)]
    with pytest.raises(LedgerError, match="grid"):
        refitter.status("other")


def test_runs_to_add_are_named_for_what_the_grid_will_not_give(session: Session, engine: Engine) -> None:
    cells = plant_grid(session, "grid")
    finish_all(engine, cells[:3])
    for run in session.query(Run).all():
        if run.cell["sparsity"] > 0.5:
            run.state = "failed"
    session.commit()
    said, *lacking = Refitter(engine).status("grid").missing
    assert "are still to come, and the law needs others too" in said
    assert any("add runs at sparsity" in sentence for sentence in lacking)


def test_the_same_runs_are_fitted_once_and_new_ones_make_a_new_version(
    session: Session, engine: Engine
) -> None:
    cells = plant_grid(session, "grid")
    finish_all(engine, cells[:-1])
    refitter = Refitter(engine)
    assert refitter.refit("grid").version == 1
    assert refitter.refit("grid").version == 1
    finish_all(engine, cells)
    assert not refitter.status("grid").current
    status = refitter.refit("grid")
    assert (status.version, status.current, status.runs) == (2, True, len(cells))
    with Session(engine) as own:
        history = fits.history(own, sweeps.get(own, "grid").id)
    assert [fit.runs for fit in history] == [len(cells) - 1, len(cells)]
    assert history[0].runs_digest != history[1].runs_digest
    assert history[1].document["coefficients"]["b_N"] == pytest.approx(0.245, rel=0.1)


def test_another_objective_is_another_fit(session: Session, engine: Engine) -> None:
    cells = plant_grid(session, "grid")
    finish_all(engine, cells)
    refitter = Refitter(engine)
    refitter.refit("grid")
    sweep = sweeps.get(session, "grid")
    sweep.spec = {
        **sweep.spec,
        "law": {"form": "sparsity", "objective": {"residual": "raw", "huber_delta": 1e-2}},
    }
    session.commit()
    assert refitter.refit("grid").version == 2


def test_two_loops_at_once_store_one_version(session: Session, engine: Engine) -> None:
    cells = plant_grid(session, "grid")
    finish_all(engine, cells)
    threads = [threading.Thread(target=Refitter(engine).refit, args=["grid"]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(engine, "SELECT version FROM fits") == [(1,)]


def test_a_fit_that_fails_as_nobody_foresaw_is_told_and_no_other_waits(
    session: Session, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("odd", "plain"):
        finish_all(engine, plant_grid(session, name))
    fitted = refit.fit

    def fit(table: Any, **how: Any) -> Any:
        monkeypatch.setattr(refit, "fit", fitted)  # the first to be asked for only: the newest sweep's
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(refit, "fit", fit)
    refitter = Refitter(engine)
    refitter.refit_all()
    assert refitter.status("plain").missing == ["the fit failed: ZeroDivisionError: by chance"]
    assert refitter.status("odd").current


def test_the_loop_outlives_the_end_of_its_connections(session: Session, engine: Engine) -> None:
    cells = plant_grid(session, "grid")
    stopping = threading.Event()
    loop = threading.Thread(target=Refitter(engine).run, args=[stopping])
    loop.start()
    listening = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    [(first,)] = until(lambda: rows(engine, listening))
    rows(engine, "SELECT pg_terminate_backend(:pid)", pid=first)
    until(lambda: [pid for (pid,) in rows(engine, listening) if pid != first])
    finish_all(engine, cells)
    until(lambda: rows(engine, "SELECT 1 FROM fits"))
    stopping.set()
    loop.join(60)
    assert not loop.is_alive()


def test_the_loop_fits_as_runs_complete_and_once_more_at_its_end(session: Session, engine: Engine) -> None:
    cells = plant_grid(session, "grid")
    finish_all(engine, cells[:-2])
    stopping = threading.Event()
    loop = threading.Thread(target=Refitter(engine).run, args=[stopping])
    loop.start()
    until(lambda: rows(engine, "SELECT 1 FROM fits"))
    finish_all(engine, cells[:-1])
    until(lambda: rows(engine, "SELECT 1 FROM fits WHERE version = 2"))
    stopping.set()
    finish_all(engine, cells)
    loop.join(60)
    assert not loop.is_alive()
    assert rows(engine, "SELECT max(runs) FROM fits")[0][0] >= len(cells) - 1
