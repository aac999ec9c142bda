"""Takes the screenshots of docs/tutorial.md from a service that shows the tutorial's sweep.

    lacuna serve --detach
    python docs/tutorial_screenshots.py http://127.0.0.1:8321

Writes docs/figures/tutorial-*.png. Needs Chromium and playwright.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FIGURES = Path(__file__).parent / "figures"
CHROMIUM = "/usr/bin/chromium"
SWEEP = "first"

#: Name of the picture → the sections of the page that it shows.
SECTIONS = {
    "law": "section:has(#chart)",
    "map": "section:has(#map)",
    "forest": "section:has(#forest)",
}


def shoot(page: Page, address: str) -> None:
    """The page's sections, then the sweep in MLflow."""
    page.goto(f"{address}/sweeps/{SWEEP}")
    page.wait_for_selector("#sweep[data-complete=true]", timeout=120_000)
    page.screenshot(path=FIGURES / "tutorial-page.png", clip={"x": 0, "y": 0, "width": 1100, "height": 760})
    for name, section in SECTIONS.items():
        found = page.locator(section).first
        if found.is_visible():
            found.screenshot(path=FIGURES / f"tutorial-{name}.png")
    link = page.get_by_role("link", name="Open in MLflow")
    if link.count():
        page.set_viewport_size({"width": 1500, "height": 800})
        page.goto(str(link.get_attribute("href")))
        page.get_by_role("link", name="N=").first.wait_for(timeout=120_000)
        page.wait_for_timeout(4_000)
        page.screenshot(path=FIGURES / "tutorial-mlflow.png")


def main() -> None:
    """One browser, one page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 760}, color_scheme="light")
        shoot(page, sys.argv[1].rstrip("/"))
        browser.close()


if __name__ == "__main__":
    main()
