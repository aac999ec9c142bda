"""The Grafana dashboard asks for metrics that the service really has, with labels that it really has."""

from __future__ import annotations

import json
import re

from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitter.service.app import create_app
from ledger.models import SegmentState, SweepState
from ledger.settings import Settings
from tests.deploy.chart import CHART
from tests.service import grid

STATES = {
    "lacuna_sweeps": {state.value for state in SweepState},
    "lacuna_runs": {state.value for state in SegmentState},
    "lacuna_segments": {state.value for state in SegmentState},
}


def test_every_panel_shows_something_that_is_there(
    settings: Settings, engine: Engine, session: Session
) -> None:
    grid.plant_grid(session)
    client = TestClient(create_app(settings=settings, engine=engine), base_url="http://localhost")
    client.get("/v1/sweeps")
    text = client.get("/metrics").text
    offered = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    labels: dict[str, set[str]] = {}
    for name, pairs in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        labels[name] = set(re.findall(r'(\w+)="', pairs))
    offered |= set(labels)
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    assert len(panels) >= 8
    asked = set()
    for panel in panels:
        for target in panel["targets"]:
            names = set(re.findall(r"lacuna_\w+", target["expr"]))
            assert names, panel["title"]
            assert names <= offered, panel["title"]
            asked |= names
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                assert set(group.split(", ")) <= set().union(*(labels[name] for name in names)), panel[
                    "title"
                ]
            for name, pattern in re.findall(r'(lacuna_\w+)\{state=~?"([^"]+)"', target["expr"]):
                assert set(pattern.split("|")) <= STATES[name], panel["title"]
    assert {name.removesuffix("_bucket") for name in asked} >= {
        "lacuna_sweeps",
        "lacuna_runs",
        "lacuna_segments",
        "lacuna_http_requests_total",
        "lacuna_http_request_seconds",
        "lacuna_streams",
    }
