"""Every command of docs/tutorial.md, run as it stands: a real sweep, followed on the page while it trains."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from ledger import embedded
from tests.service.conftest import CHROMIUM

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
LONGEST = 1800
"""Seconds for one command: a bound for a machine that is busy with other things."""


def commands() -> list[list[str]]:
    """The commands of the tutorial, block by block, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    return [[line[2:] for line in block.splitlines() if line.startswith("$ ")] for block in blocks]


@dataclass
class Reader:
    """Somebody who types the tutorial's commands into a shell, in an empty folder."""

    folder: Path
    environment: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)
    """Command → what it printed."""

    def type(self, command: str) -> None:
        """Run a command to its end; it must succeed."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
        self.said[command] = done.stdout
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def type_all(self, commands: list[str]) -> None:
        """Run commands one after the other."""
        for command in commands:
            self.type(command)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """With `lacuna` on the path, and a home of their own."""
    with tempfile.TemporaryDirectory(prefix="lacuna-t-", ignore_cleanup_errors=True) as directory:
        folder = Path(directory)
        (folder / "bin").mkdir()
        shim = folder / "bin" / "lacuna"
        program = "from orchestrator.command.main import main; main()"
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n')
        shim.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LACUNA_")}
        root = str(TUTORIAL.parents[1])
        environment = {
            **kept,
            "LACUNA_HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": root,
        }
        someone = Reader(folder, environment)
        yield someone
        subprocess.run(
            ["bash", "-c", "lacuna serve --stop"], env=environment, cwd=folder, check=False, timeout=LONGEST
        )
        embedded.stop(folder / "home" / "postgres")


@pytest.mark.browser
@pytest.mark.timeout(5400)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
def test_the_tutorial_leads_from_nothing_to_a_decision(reader: Reader) -> None:
    blocks = commands()
    training = next(i for i, block in enumerate(blocks) if "lacuna run first.yaml" in block)
    *before, run = blocks[training]
    stop = blocks[-1].pop()
    assert (run, stop) == ("lacuna run first.yaml", "lacuna serve --stop")
    for command in [*itertools.chain.from_iterable(blocks[:training]), *before]:
        reader.type(command)
    with ThreadPoolExecutor(2) as hands:
        trained = hands.submit(reader.type, run)
        _follow_on_the_page(reader, trained)
        trained.result(LONGEST)
        # From here on they only ask: one block beside the other, each in its order.
        for done in [hands.submit(reader.type_all, block) for block in blocks[training + 1 :]]:
            done.result(LONGEST)
    reader.type(stop)
    assert "27 of 27 runs done" in reader.said["lacuna run first.yaml"]
    assert "law of first" in reader.said["lacuna law first"]


def _follow_on_the_page(reader: Reader, trained: Future[None]) -> None:
    """The page of the sweep, opened as it begins and never loaded again, tells of its end."""
    served = json.loads((reader.folder / "home" / "serve.json").read_text())["url"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        deadline = time.monotonic() + LONGEST
        while (answer := page.goto(f"{served}/sweeps/first")) is None or not answer.ok:
            assert not trained.done(), "the run ended before its sweep was there"
            assert time.monotonic() < deadline, "the sweep never came"
            time.sleep(0.5)
        page.wait_for_selector("#sweep[data-ready=true]", timeout=120_000)
        page.evaluate("window.untouched = true")
        seen = page.locator("#status").inner_text()
        expect(page.locator("#status")).to_contain_text("27 of 27 runs done", timeout=LONGEST * 1000)
        expect(page.locator("#forest .segment.completed").first).to_be_visible(timeout=120_000)
        expect(page.locator("#answer")).not_to_contain_text("No law yet", timeout=120_000)
        assert page.evaluate("window.untouched"), seen
        assert problems == []
        browser.close()


def test_every_picture_of_the_tutorial_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TUTORIAL.read_text())
    assert len(pictures) >= 3
    for picture in pictures:
        assert (TUTORIAL.parent / picture).is_file(), picture
