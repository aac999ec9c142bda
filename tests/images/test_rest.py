"""What the checks of images and clusters ask of the service is there, and understood."""

from __future__ import annotations

import urllib.error
from dataclasses import replace

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitter.service import create_app
from ledger.settings import Settings
from tests.images import rest
from tests.service import grid
from tests.service.serving import serving

TOKEN = "a-token-of-the-operator"


def test_a_sweep_is_followed_to_its_law(
    settings: Settings, engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "RUNS", len(grid.cells()))
    sweep = grid.plant_grid(session, rest.NAME)
    closed = replace(settings, api_token=TOKEN)
    app = create_app(settings=closed, engine=engine, require_token=True)
    with serving(app) as address:
        service = rest.Service(address.removeprefix("http://"), TOKEN)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            service.ask("/v1/sweeps", with_token=False)
        assert rest.until(service.ready, 30, "the service")
        assert service.completed() == 0
        grid.complete(session, sweep)
        assert service.completed() == rest.RUNS
        assert service.law_of_all_runs() is None
        grid.store_law(session, sweep)
        rest.told(service.law_of_all_runs() or {})
