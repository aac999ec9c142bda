"""Submitting a sweep over REST: the planner that the service is given, and what a caller from elsewhere may name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from fitter.service.submission import SubmitError, SubmitResult
from ledger.settings import Settings

PLANNING_SECONDS = 900
LARGEST_SPEC = 2**20
"""Bytes: a spec is a page of YAML."""


def planner(settings: Settings, engine: Engine, *, trusted: bool) -> Callable[[bytes, str], SubmitResult]:
    """Checks, plans and stores a spec (`fitter.service.submission.Submit`).

    `trusted`: only this machine's users reach the service; they may name any file that they could name to the command.
    Others may name what LACUNA_ALLOWED_SOURCES allows (`orchestrator.spec.sources`).
    """

    def submit(body: bytes, kind: str) -> SubmitResult:
        # Here, not above: many services never plan.
        from orchestrator.spec import SpecError, load_spec
        from orchestrator.spec.document import read
        from orchestrator.spec.sources import AllowedSources

        allowed = AllowedSources.of(settings.allowed_sources, settings.home)

        if len(body) > LARGEST_SPEC:
            raise SubmitError(
                [{"path": "", "message": f"has {len(body)} bytes: a spec has at most {LARGEST_SPEC}"}]
            )
        try:
            # Before the spec is checked: checking opens what a spec names.
            problems = [] if trusted else allowed.problems(read(body, "body"))
            if not problems:
                load_spec(body, "body")
        except SpecError as error:
            raise SubmitError(error.documents()) from error
        if problems:
            raise SubmitError(SpecError(problems, "body").documents())
        return _planned_aside(settings, engine, body)

    return submit


def _planned_aside(settings: Settings, engine: Engine, body: bytes) -> SubmitResult:
    """Plan in a process of its own: preparing data loads libraries of 300 MB, which the service would keep."""
    environment = {
        **os.environ,
        "LACUNA_HOME": str(settings.home),
        "LACUNA_DATABASE_URL": engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.command.serve_submit"],
            input=body,
            env=environment,
            capture_output=True,
            timeout=PLANNING_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = (
            f"preparing it took over {PLANNING_SECONDS} s: run `lacuna data prepare` first, then submit again"
        )
        raise SubmitError([{"path": "data", "message": message}]) from error
    if done.returncode:
        raise RuntimeError(f"planning failed: {done.stderr.decode(errors='replace')[-4000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "problems" in answer:
        raise SubmitError(answer["problems"], conflict=answer["conflict"])
    return SubmitResult(**answer)


def plan_here(body: bytes) -> dict[str, Any]:
    """Check, plan and store a spec in this process: what `SubmitResult` or `SubmitError` take, as plain values."""
    from ledger.engine import open_ledger
    from ledger.errors import SweepExists
    from orchestrator.spec import SpecError
    from orchestrator.submit import submit_text
    from trainer.errors import TrainerError

    settings = Settings.from_environment()
    try:
        done = submit_text(settings, open_ledger(settings), body, "body")
    except SpecError as error:
        return {"problems": error.documents(), "conflict": False}
    except SweepExists as error:
        return {"problems": [{"path": "name", "message": str(error)}], "conflict": True}
    except TrainerError as error:
        return {"problems": [{"path": "data", "message": str(error)}], "conflict": False}
    return {
        "name": done.name,
        "outcome": done.outcome,
        "runs_added": done.runs_added,
        "plan": done.plan,
    }


if __name__ == "__main__":
    print(json.dumps(plan_here(sys.stdin.buffer.read()), default=str))
