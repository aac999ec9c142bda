"""How soon the page of a sweep with 1,000 runs says what people came for, in Chromium, cold and warm.

    python benchmarks/page_load.py

Fills a ledger of its own with a sweep of 1,000 runs and its law, starts the service as a process, and opens the page:
`words` is the time until progress and answer are there, `drawn` until the law's chart with its thousand points is too,
`whole` until all that lies below it is there as well, the held-out runs' fit and the suggestions included. Budget on 2
free cores: 1.5 s until drawn, with an empty cache. The load average is printed: on a busy machine the times say little.
Needs Chromium.
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


def opened(page: Page, address: str) -> tuple[float, float, float]:
    """Seconds until the words are there, until the chart is, and until everything is."""
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator("#answer strong").wait_for()
    words = time.perf_counter() - began
    page.wait_for_selector("#sweep[data-ready=true]")
    drawn = time.perf_counter() - began
    page.wait_for_selector("#sweep[data-complete=true]")
    return words, drawn, time.perf_counter() - began


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
        words, drawn, whole = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:12} words {words:.2f} s, drawn {drawn:.2f} s, whole {whole:.2f} s (medians of {OPENED})"
        )
    print(f"load average {os.getloadavg()[0]:.1f}")
    return int(statistics.median(drawn for _, drawn, _ in cold) > 1.5)


if __name__ == "__main__":
    sys.exit(main())
