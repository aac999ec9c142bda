"""How soon the page of a sweep with 1,000 runs says what people came for, in Chromium, cold and warm.

    python benchmarks/page_load.py

Fills a ledger of its own with a sweep of 1,000 runs and its law, starts the service as a process, and opens the page:
`words` is the time until progress and answer are there, `drawn` until the law and its thousand measurements are to be
seen too (as a still picture), `interactive` until Plotly has taken the picture's place, and `whole` until all that lies
below is there as well, the held-out runs' fit and the suggestions included. `main thread` is the processor's time that
the page's main thread takes until `drawn`: it says something on a busy machine too, where the others say little (the
load average is printed). Budget on 2 free cores: 1.5 s until drawn, with an empty cache. Needs Chromium.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import service_load
from playwright.sync_api import Page, sync_playwright

from ledger.settings import Settings

OPENED = 5
CHROMIUM = "/usr/bin/chromium"


MOMENTS = {
    "words": "#answer strong",
    "drawn": "#sweep[data-ready=true]",
    "interactive": "#sweep[data-interactive=true]",
    "whole": "#sweep[data-complete=true]",
}


def opened(page: Page, address: str) -> dict[str, float]:
    """Seconds until each moment, and of the main thread until the chart is drawn."""
    told = page.context.new_cdp_session(page)
    told.send("Performance.enable", {"timeDomain": "threadTicks"})
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    times = {}
    for name, selector in MOMENTS.items():
        page.wait_for_selector(selector)
        times[name] = time.perf_counter() - began
        if name == "drawn":
            metrics = told.send("Performance.getMetrics")["metrics"]
            times["main thread"] = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
    told.detach()
    return times


def main() -> int:
    """Fill, serve, open; 1 where the budget is broken."""
    service_load.SWEEPS = 1
    with tempfile.TemporaryDirectory(prefix="lacuna-page-", ignore_cleanup_errors=True) as home:
        service_load.fill(Settings(home=Path(home)))
        serve = [sys.executable, "-c", service_load.PROGRAM, "serve"]
        environment = {**os.environ, "LACUNA_HOME": home}
        subprocess.run([*serve, "--detach", "--no-mlflow", "--port", "18720"], env=environment, check=True)
        try:
            address = json.loads((Path(home) / "serve.json").read_text())["url"] + "/sweeps/sweep-0"
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                cold = []
                for _ in range(OPENED):
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    cold.append(opened(context.new_page(), address))
                    context.close()
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                warm = [opened(page, address) for _ in range(OPENED)]
                browser.close()
        finally:
            subprocess.run([*serve, "--stop"], env=environment, check=True)
    for name, times in (("empty cache", cold), ("again", warm)):
        median = {moment: statistics.median(found[moment] for found in times) for moment in times[0]}
        said = ", ".join(f"{moment} {seconds:.2f} s" for moment, seconds in median.items())
        print(f"{name:12} {said} (medians of {OPENED})")
    print(f"load average {os.getloadavg()[0]:.1f}")
    return int(statistics.median(found["drawn"] for found in cold) > 1.5)


if __name__ == "__main__":
    sys.exit(main())
