"""The page in a real browser: it loads, answers, follows a running sweep, exports, and is fit for all readers."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitter.imports import import_table
from fitter.service import create_app
from ledger.models import Run, Sweep
from ledger.settings import Settings
from tests.service import grid
from tests.service.conftest import CHROMIUM

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"),
]

CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
ARGUMENTS = [
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--no-first-run",
]


#: Milliseconds that a busy machine may take: what is tested is that it appears, not when.
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, once for the file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1280 × 900; a script error or a resource that our policy blocks fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            problems.append(request.url)
            if "127.0.0.1" not in request.url and request.url.startswith("http")
            else None
        ),
    )
    yield page
    context.close()
    assert problems == []


def open_sweep(page: Page, served: str) -> None:
    """The sweep's page, with what stands below its first chart too."""
    page.goto(f"{served}/sweeps/grid")
    page.wait_for_selector("#sweep[data-complete=true]", timeout=PATIENCE)


def test_without_a_sweep_the_page_teaches(page: Page, served: str) -> None:
    page.goto(served)
    expect(page.get_by_role("heading", name=re.compile("No sweep yet"))).to_be_visible()
    expect(page.get_by_text("lacuna run first.yaml")).to_be_visible()


def test_the_list_leads_to_a_sweep(page: Page, served: str, fitted: Sweep) -> None:
    page.goto(served)
    page.get_by_role("link", name="grid").click()
    expect(page).to_have_url(f"{served}/sweeps/grid")
    expect(page.get_by_role("heading", level=1)).to_have_text("grid")


def test_a_law_that_does_not_come_is_told_and_is_no_script_error(
    page: Page, served: str, fitted: Sweep
) -> None:
    def late(route: Route) -> None:
        page.wait_for_timeout(300)
        route.continue_()

    page.route("**/v1/sweeps/grid/law", lambda route: route.abort())
    page.route("**/v1/sweeps/grid/runs*", late)
    page.goto(f"{served}/sweeps/grid")
    expect(page.locator("#toast")).to_contain_text("does not answer")


def test_a_finished_sweep_answers_its_question(page: Page, served: str, fitted: Sweep) -> None:
    open_sweep(page, served)
    expect(page.locator("#status")).to_contain_text("48 of 48 runs done")
    expect(page.locator("#answer")).to_contain_text(re.compile(r"make it [\d.]+\s% sparse \(90\s% interval"))
    expect(page.locator("#coefficients tbody tr")).to_have_count(7)
    # 48 runs, and a moment later the rings of the 16 that were held out.
    expect(page.locator("#chart .point")).to_have_count(48 + 16)
    page.get_by_role("button", name="predicted").click()
    expect(page.locator("#chart-note")).to_contain_text("48 runs lie 0.")


#: Where the chart's points lie in it, and its size: [x, y], …, [width, height].
PLACES = """() => {
    const { x, y, width, height } = document.getElementById("chart").getBoundingClientRect();
    const boxes = [...document.querySelectorAll("#chart .point")].map((point) => point.getBoundingClientRect());
    return [...boxes.map((box) => [box.x + box.width / 2 - x, box.y + box.height / 2 - y]), [width, height]];
}"""
SHIFTS = """() => {
    window.shifts = [];
    const observer = new PerformanceObserver((list) => shifts.push(...list.getEntries().map(({ value }) => value)));
    observer.observe({ type: "layout-shift" });
}"""


def test_the_law_is_a_picture_until_plotly_takes_its_place(page: Page, served: str, fitted: Sweep) -> None:
    held: list[Route] = []
    page.route("**/plotly.min.js", lambda route: held.append(route))
    page.route(
        "**/law/held-out*", lambda route: route.fulfill(status=422, json={})
    )  # no rings: they are drawn later
    with page.expect_request("**/plotly.min.js"):
        page.goto(f"{served}/sweeps/grid")
    expect(page.locator("#chart .picture .point")).to_have_count(48)
    expect(page.locator("#chart .picture .line")).to_have_count(16)  # 4 sizes × 4 sparsities
    expect(page.locator("#map .picture .point").first).to_be_attached()
    assert page.locator(".js-plotly-plot").count() == 0
    before = page.evaluate(PLACES)
    page.wait_for_function("document.getElementById('forest-svg') !== null")
    page.evaluate(SHIFTS)
    held.pop().continue_()
    page.wait_for_selector("#sweep[data-interactive=true]")
    expect(page.locator(".picture")).to_have_count(0)
    for after, still in zip(page.evaluate(PLACES), before, strict=True):
        assert after == pytest.approx(still, abs=1.5)
    assert page.evaluate("shifts") == []


def test_without_plotly_the_pictures_stay_and_the_page_works(page: Page, served: str, fitted: Sweep) -> None:
    page.route("**/plotly.min.js", lambda route: route.abort())
    open_sweep(page, served)
    expect(page.locator("#still")).to_contain_text("could not be loaded. The figures are still pictures")
    expect(page.locator("#chart-note")).to_contain_text("Ringed runs are held out")
    expect(page.locator("#chart .picture .point")).to_have_count(48 + 16)
    said = page.locator("#answer").inner_text()
    for _ in range(5):
        page.get_by_role("slider", name="Your model").press("ArrowUp")
    expect(page.locator("#answer")).not_to_have_text(said)
    page.get_by_role("button", name="over size").click()
    expect(page.locator("#chart .picture .title").first).to_have_text("non-zero parameters N")


def test_a_sparsity_can_be_switched_off_and_on(page: Page, served: str, fitted: Sweep) -> None:
    open_sweep(page, served)
    button = page.locator("section:has(#chart) .legend").get_by_role("button", name="75 %")
    expect(page.locator("#chart .point")).to_have_count(48 + 16)
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#chart .point")).to_have_count(36 + 16)
    page.get_by_role("button", name="over size").click()  # it stays off
    expect(page.locator("#chart-note")).to_contain_text("largest ones")
    expect(page.locator("#chart .point")).to_have_count(36 + 12)
    button.press("Enter")
    expect(page.locator("#chart .point")).to_have_count(48 + 12)


def test_runs_that_a_law_has_not_seen_are_ringed(page: Page, served: str, fitted: Sweep) -> None:
    open_sweep(page, served)
    expect(page.locator("#chart-note")).to_contain_text("Ringed runs are held out", timeout=PATIENCE)
    rings = page.evaluate(
        "document.getElementById('chart').data.filter(t => t.name === 'held out').map(t => t.x.length)"
    )
    assert rings == [16]  # the longest runs: 4 sizes × 4 sparsities
    page.get_by_role("button", name="over size").click()
    expect(page.locator("#chart-note")).to_contain_text("these largest ones", timeout=PATIENCE)
    page.get_by_role("button", name="predicted").click()
    expect(page.locator("#chart-note")).to_contain_text("as a law fitted without them", timeout=PATIENCE)


def test_a_service_that_dies_while_a_question_is_open_is_told_and_is_no_script_error(
    page: Page, app: FastAPI, fitted: Sweep
) -> None:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    open_sweep(page, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    server.should_exit = server.force_exit = True
    thread.join(20)
    page.get_by_label("Non-zero parameters N").fill("21e6")
    expect(page.locator("#toast")).to_contain_text("does not answer")
    page.get_by_role("slider", name="Your model").press("ArrowRight")
    page.get_by_label("A zero weight costs").select_option("sparse")
    page.get_by_role("button", name="over size").click()
    page.wait_for_timeout(500)
    page.goto("about:blank")  # the page's fixture fails on any script error until here


def test_imported_runs_have_a_page_without_a_forest(page: Page, served: str, engine: Engine) -> None:
    columns = ("sparsity", "nonzero_params", "data", "loss")
    import_table(engine, "grid", [{column: cell[column] for column in columns} for cell in grid.cells()])
    open_sweep(page, served)
    expect(page.locator("#status")).to_contain_text("48 of 48 runs done")
    expect(page.locator("#answer")).to_contain_text("% sparse")
    expect(page.locator("#forest")).to_be_hidden()
    expect(page.locator("#spec-title")).to_be_hidden()


def test_a_sweep_that_mixes_patterns_answers_for_each(page: Page, served: str, engine: Engine) -> None:
    import_table(engine, "grid", grid.mixed_table())
    open_sweep(page, served)
    choice = page.get_by_label("The law of")
    expect(choice).to_have_value("unstructured")
    before = page.locator("#answer strong").inner_text()
    expect(page.locator("#formula")).to_contain_text("version 1, from 48 runs")
    choice.select_option("n:4")
    expect(page.locator("#formula")).to_contain_text("version 2, from 36 runs")
    expect(page.locator("#answer strong")).not_to_have_text(before)
    expect(page.locator("#history tbody tr")).to_have_count(1)
    # Points of this group only: none at 87.5 %.
    names = page.locator("section:has(#chart) .legend button")
    expect(names.filter(has_text="87.5 %")).to_have_count(0)
    expect(names.filter(has_text="75 %")).to_have_count(1)


def test_the_reader_asks_for_a_model_of_their_own(page: Page, served: str, fitted: Sweep) -> None:
    open_sweep(page, served)
    page.get_by_label("Non-zero parameters N").fill("21e6")
    page.get_by_label("Training compute C").fill("1e19")
    expect(page.locator("#answer")).to_contain_text("With 21 M non-zero parameters and 10¹⁹ FLOPs")
    page.get_by_label("Training compute C").fill("much")
    expect(page.get_by_label("Training compute C")).to_have_attribute("aria-invalid", "true")


def test_the_point_on_the_map_moves_by_mouse_and_by_keyboard(page: Page, served: str, fitted: Sweep) -> None:
    open_sweep(page, served)
    point = page.get_by_role("slider", name="Your model")
    before = page.get_by_label("Non-zero parameters N").input_value()
    point.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Non-zero parameters N")).not_to_have_value(before)
    said = page.locator("#answer").inner_text()
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 13, box["y"] + 13)
    page.mouse.down()
    page.mouse.move(box["x"] - 80, box["y"] - 60, steps=5)
    page.mouse.up()
    expect(page.locator("#answer")).not_to_have_text(said)
    expect(point).to_have_attribute("aria-valuetext", re.compile(r"parameters, .* FLOPs: .*\s% sparse"))
    page.goto("about:blank")  # the last move is still being asked about: leave before the service ends


def test_a_running_sweep_is_followed_without_a_reload(
    page: Page, served: str, sweep: Sweep, session: Session
) -> None:
    open_sweep(page, served)
    expect(page.locator("#status")).to_contain_text("0 of 48 runs done")
    expect(page.locator("#answer")).to_contain_text("No law yet")
    page.evaluate("window.untouched = true")
    grid.complete(session, sweep, {"nonzero_params": 1e6})
    expect(page.locator("#status")).to_contain_text("12 of 48 runs done", timeout=PATIENCE)
    expect(page.locator("#runs .chip.completed")).to_have_count(12, timeout=PATIENCE)
    expect(page.locator("#forest .segment.completed").first).to_be_visible(timeout=PATIENCE)
    grid.complete(session, sweep)
    grid.store_law(session, sweep)
    expect(page.locator("#answer")).to_contain_text("% sparse", timeout=PATIENCE)
    assert page.evaluate("window.untouched")


def test_pause_and_resume(page: Page, served: str, sweep: Sweep) -> None:
    open_sweep(page, served)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#status")).to_contain_text("Paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_failed_run_shows_its_reason(page: Page, served: str, sweep: Sweep, session: Session) -> None:
    row = session.query(Run).filter_by(sweep_id=sweep.id, position=3).one()
    row.state, row.reason = "failed", "out of memory <b>here</b>"  # type: ignore[assignment]
    session.commit()
    open_sweep(page, served)
    expect(page.locator("#failed")).to_contain_text("out of memory <b>here</b>")
    expect(page.locator("#status")).to_contain_text("1 run needs attention")


def test_every_figure_and_every_table_is_saved(
    page: Page, served: str, fitted: Sweep, session: Session
) -> None:
    row = session.query(Run).filter_by(sweep_id=fitted.id, position=3).one()
    row.state, row.reason = "failed", "=1+1 went wrong,\nsomehow"  # type: ignore[assignment]
    session.commit()
    # Further versions: the versions' chart has something to show, and coefficients that a logarithmic axis cannot.
    known = grid.document()["coefficients"]
    grid.store_law(session, fitted, coefficients={**known, "c_S": 0.0})
    grid.store_law(session, fitted, coefficients={**known, "c": 0.0})
    open_sweep(page, served)
    begins = {
        **dict.fromkeys(("chart SVG", "map SVG", "history-chart SVG", "forest SVG"), b"<svg"),
        **dict.fromkeys(("chart PNG", "map PNG", "history-chart PNG", "forest PNG"), b"\x89PNG"),
        "runs CSV": b"sparsity,",
        "contours CSV": b"sparsity,",
        "coefficients CSV": b"coefficient,value,low,high,level\n",
        "optima CSV": b"nonzero_params,flops,sparsity,low,high,",
        "gain CSV": b"sparsity,value,low,high\n0.5,",
        "history CSV": b"version,created_at,runs,",
        "suggestions CSV": b"sparsity,nonzero_params,data,flops,",
        "failed CSV": b"name,state,sparsity,nonzero_params,data,reason\n",
    }
    contents = {}
    for what, start in begins.items():
        of, kind = what.split()
        place = page.locator(f".export:is([data-figure={of}], [data-table={of}], [data-svg={of}])")
        with page.expect_download() as saved:
            place.get_by_role("button", name=f"Save as {kind}").click()
        contents[what] = Path(saved.value.path()).read_bytes()
        assert contents[what].startswith(start), (what, contents[what][:200])
        assert len(contents[what].splitlines()) > 1 or kind != "CSV", what
    assert b'"\'=1+1 went wrong,\nsomehow"' in contents["failed CSV"]  # a spreadsheet would run it
    assert contents["chart SVG"].count(b"87.5") == 1  # the legend goes with the figure
    assert page.locator(".export button").count() == len(begins)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_or_scheme_overflows_or_hides_text(
    browser: Browser, served: str, fitted: Sweep, scheme: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    for path in ("/", "/sweeps/grid"):
        page.goto(served + path)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate(CONTRAST) == [], path
    context.close()


def test_everything_that_acts_has_a_name_and_takes_the_focus(page: Page, served: str, fitted: Sweep) -> None:
    open_sweep(page, served)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(
            "button, a[href], input, select, textarea, [role=slider], [role=img], [role=region]")]
          .filter((e) => e.checkVisibility())
          .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length || e.title))
          .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []
    headings = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].filter(e => e.checkVisibility()).map(e => +e.tagName[1])"
    )
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, served: str, fitted: Sweep, scheme: str) -> None:
    axe = Axe()
    # axe is put into the page as a script, which our policy forbids to everyone else.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    for path in ("/sweeps/grid",) if scheme == "dark" else ("/", "/sweeps/grid", "/login"):
        page.goto(served + path)
        if "sweeps" in path:
            page.wait_for_selector("#sweep[data-complete=true]", timeout=PATIENCE)
        found = axe.run(page).response["violations"]
        assert [
            (v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")
        ] == []
    context.close()


def test_the_scheme_can_be_chosen_and_is_kept(page: Page, served: str, fitted: Sweep) -> None:
    page.goto(served)
    page.get_by_role("button", name="Colour scheme").click()
    page.get_by_role("button", name="Colour scheme: light").click()
    expect(page.locator("html")).to_have_attribute("data-scheme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-scheme", "dark")


def test_the_documentation_of_the_api_works_offline(page: Page, served: str) -> None:
    page.goto(f"{served}/docs")
    expect(page.locator(".opblock-summary-path").first).to_be_visible(timeout=PATIENCE)


def test_a_reader_from_elsewhere_logs_in(
    page: Page, settings: Settings, engine: Engine, fitted: Sweep
) -> None:
    app = create_app(
        settings=replace(settings, api_token="sesame-sesame-123"), engine=engine, require_token=True
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        page.goto(f"{address}/sweeps/grid")
        expect(page).to_have_url(f"{address}/login?next=/sweeps/grid")
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
        page.get_by_label("Token").fill("sesame-sesame-123")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("#sweep[data-ready=true]")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{address}/login")
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
