"""A sweep over REST, from its submission to its law, as a caller with nothing but the standard library sees it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")

SWEEP = Path(__file__).with_name("sweep.yaml")
NAME = "images"
RUNS = 27

#: Seconds for an answer; a submission prepares data.
ANSWER_SECONDS = 60.0
SUBMIT_SECONDS = 600.0


class Service:
    """The REST service at an address, asked with a token."""

    def __init__(self, address: str, token: str) -> None:
        """`address`: host:port."""
        self._address = address
        self._token = token

    def ask(self, path: str, body: bytes | None = None, *, with_token: bool = True) -> dict[str, Any]:
        """The document at a path. Raises AssertionError where the request was wrong or the service failed, and
        urllib.error.HTTPError for other refusals."""
        headers = {"Content-Type": "application/yaml"}
        if with_token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(f"http://{self._address}{path}", data=body, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SUBMIT_SECONDS if body else ANSWER_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code in (400, 422, 500):
                raise AssertionError(f"{path}: {error.code} {error.read().decode()[:2000]}") from None
            raise

    def ready(self) -> bool:
        """Whether it and its ledger answer."""
        return self.ask("/readyz") == {"status": "ok"}

    def submit(self) -> None:
        """Hand SWEEP over."""
        made = self.ask("/v1/sweeps", SWEEP.read_bytes())
        assert made["name"] == NAME, made
        print(f"submitted {NAME}", flush=True)

    def completed(self) -> int:
        """Runs of the sweep that have a loss. Raises AssertionError once one cannot have any."""
        runs = self.ask(f"/v1/sweeps/{NAME}/runs?limit=100")["items"]
        failed = [run for run in runs if run["state"] in ("failed", "diverged")]
        assert not failed, f"runs failed: {failed[:2]}"
        return sum(run["state"] == "completed" for run in runs)

    def law_of_all_runs(self) -> dict[str, Any] | None:
        """The sweep's law, once it is of all its runs."""
        if self.completed() < RUNS:
            return None
        try:
            law = self.ask(f"/v1/sweeps/{NAME}/law")
        except urllib.error.HTTPError as error:
            if error.code in (404, 409, 425):
                return None
            raise
        return law if law["runs"] == RUNS else None


def told(law: dict[str, Any]) -> None:
    """Print a law. Raises AssertionError where a coefficient is no number."""
    assert all(isinstance(value, float) for value in law["coefficients"].values()), law["coefficients"]
    print(f"law from {law['runs']} runs: {json.dumps(law['coefficients'])}", flush=True)


def until(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """What `look` finds, once it finds something. Raises AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    seen: object = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (urllib.error.URLError, OSError, subprocess.SubprocessError) as trouble:
            seen = trouble
        time.sleep(1)
    raise AssertionError(f"waited {seconds:.0f} s for {what}; last seen: {seen}")
