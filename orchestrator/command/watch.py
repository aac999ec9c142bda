"""`lacuna watch SWEEP`: how a sweep goes, as it goes: progress, speed, time left, best losses and the law so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from orchestrator.command.facts import InputError, Source
from orchestrator.command.output import console, duration, figure, percent, print_json, span, table
from orchestrator.command.source import api_option, open_source

if TYPE_CHECKING:
    from rich.console import Group

    from fitter.service.schemas import Progress
    from orchestrator.client import Event

BEST = 5
"""Losses shown."""
PLAIN_SECONDS = 10.0
"""Seconds between two lines where there is no terminal."""
LAW_SECONDS = 20.0
"""Seconds that the last law may take after the last run."""
OVER = ("completed", "cancelled")


@dataclass
class View:
    """What is shown of a sweep."""

    sweep: str
    progress: Progress | None = None
    law: dict[str, Any] | None = None
    losses: dict[str, float] = field(default_factory=dict)
    """Name of each completed run → its loss."""

    def take(self, event: Event, law: Callable[[], dict[str, Any] | None]) -> None:
        """What an event says. `law` asks for the newest law."""
        from fitter.service.schemas import Progress

        if event.kind == "progress":
            self.progress = Progress.model_validate(event.data, extra="ignore")
        elif event.kind == "run" and event.data.get("loss") is not None:
            self.losses[event.data["name"]] = event.data["loss"]
        elif event.kind == "law":
            self.law = law()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.progress is not None and self.progress.state.value in OVER

    def best(self) -> list[tuple[str, float]]:
        """The lowest losses, with their runs."""
        return sorted(self.losses.items(), key=lambda item: item[1])[:BEST]

    def line(self) -> str:
        """All of it in one line."""
        far = self.progress
        assert far is not None
        runs = far.runs
        bad = f", {runs.failed + runs.diverged} failed" if runs.failed + runs.diverged else ""
        speed = "" if far.steps_per_second is None else f", {far.steps_per_second:.3g} steps/s"
        left = "" if self.over else f", {duration(far.seconds_left)} left"
        law = "" if self.law is None else f", law version {self.law['version']}{_gain(self.law)}"
        return (
            f"{self.sweep} {far.state.value}: {_share(far)} of the steps, {runs.completed}/{runs.total} runs done, "
            f"{runs.running} running{bad}, best loss {figure(far.best_loss)}{speed}{left}{law}"
        )


@click.command(name="watch")
@click.argument("sweep")
@api_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document when the sweep is over.")
def command(sweep: str, api: str | None, as_json: bool) -> None:
    """Watch SWEEP until it is over: progress, speed, time left, best losses and the current law.

    On a terminal it is a live view; elsewhere a line every ten seconds. Ctrl-C ends the watching, not the sweep. Exit
    code 1 when the sweep is over and runs of it failed.

    \b
      lacuna watch quickstart
      lacuna watch quickstart --api http://gpu-box:8321
    """
    with open_source(api) as source:
        view = View(
            sweep,
            law=_law(source, sweep),
            losses={row["name"]: row["loss"] for row in source.runs(sweep) if row["loss"] is not None},
        )
        with _display(quiet=as_json) as show:
            for event in source.events(sweep):
                view.take(event, lambda: _law(source, sweep))
                if view.progress is not None:
                    show(view, view.over)
                if view.over:
                    break
            _await_law(source, view)
            show(view, True)
    assert view.progress is not None
    runs = view.progress.runs
    if as_json:
        law = (
            None
            if view.law is None
            else {name: view.law[name] for name in ("version", "runs", "coefficients")}
        )
        print_json({"sweep": sweep, "progress": view.progress.model_dump(mode="json"), "law": law})
    if runs.failed + runs.diverged:
        raise click.exceptions.Exit(1)


def _law(source: Source, sweep: str) -> dict[str, Any] | None:
    try:
        return source.law(sweep)
    except InputError:
        return None


def _await_law(source: Source, view: View) -> None:
    """The law that saw the last runs comes a moment after them."""
    assert view.progress is not None
    deadline = time.monotonic() + LAW_SECONDS
    while view.progress.state.value == "completed" and time.monotonic() < deadline:
        summary, missing = source.law_summary(view.sweep)
        if missing or (summary is not None and summary["runs"] >= _described(source, view, summary)):
            break
        time.sleep(1)
    view.law = _law(source, view.sweep)


def _described(source: Source, view: View, law: dict[str, Any]) -> int:
    """How many completed runs that law is to describe."""
    assert view.progress is not None
    if "group" not in law:
        return view.progress.runs.completed
    members = source.groups(view.sweep)[law["group"]]
    rows = source.runs(view.sweep)
    return sum(row["state"] == "completed" and row["position"] in members for row in rows)


@contextmanager
def _display(*, quiet: bool) -> Iterator[Callable[[View, bool], None]]:
    """Something that takes a view, and whether it is the last word."""
    out = console()
    if quiet:
        yield lambda view, last: None
        return
    if out.is_terminal:
        from rich.live import Live

        with Live(console=out, refresh_per_second=4) as live:
            yield lambda view, last: live.update(_page(view))
        return
    said, at = "", -PLAIN_SECONDS

    def plain(view: View, last: bool) -> None:
        nonlocal said, at
        now, line = time.monotonic(), view.line()
        if line != said and (last or now - at >= PLAIN_SECONDS):
            said, at = line, now
            out.print(line, markup=False, soft_wrap=True)

    yield plain


def _page(view: View) -> Group:
    """The live view."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    far = view.progress
    assert far is not None
    runs, segments = far.runs, far.segments
    colour = {"done": "green", "running": "green", "attention": "red"}.get(far.health, "yellow")
    facts = [
        ("runs", f"{runs.completed} of {runs.total} done, {runs.running} running, {runs.pending} waiting"),
        ("segments", f"{segments.completed} of {segments.total} done, {segments.running} running"),
        ("speed", "–" if far.steps_per_second is None else f"{far.steps_per_second:.3g} steps/s"),
        ("time left", "–" if view.over else duration(far.seconds_left)),
    ]
    if runs.failed + runs.diverged:
        why = f"{runs.failed} failed, {runs.diverged} diverged (`lacuna runs {view.sweep} --failed`)"
        facts.insert(1, ("", why))
    parts: list[Any] = [
        Text.assemble((view.sweep, "bold"), "  ", (far.health, colour), f"  {_share(far)}"),
        ProgressBar(total=max(segments.steps, 1), completed=segments.steps_done, width=60),
        table(["", ""], facts),
    ]
    working = [
        (
            item.worker,
            f"{item.step}/{item.end_step}",
            figure(item.loss),
            f"{item.runs} run{'s' if item.runs > 1 else ''} wait on it",
        )
        for item in far.working[:8]
    ]
    if working:
        parts += [Text(), table(["worker", ">step", ">loss", ""], working)]
    if view.losses:
        parts += [
            Text(),
            table(["best runs", ">loss"], [(name, figure(loss, 5)) for name, loss in view.best()]),
        ]
    parts += [Text(), _law_lines(view.law)]
    return Group(*parts)


def _law_lines(law: dict[str, Any] | None) -> Any:
    from rich.text import Text

    if law is None:
        return Text("law: not fitted yet", style="dim")
    rows = [
        (percent(float(sparsity)), f"{figure(gain['value'], 3)}×", span(gain.get("low"), gain.get("high"), 3))
        for sparsity, gain in law["gain"].items()
    ]
    of = f" of {law['group']}" if law.get("group") else ""
    return table([f"law{of} version {law['version']}, {law['runs']} runs", ">gain", "interval"], rows)


def _gain(law: dict[str, Any]) -> str:
    """The gain at the largest sparsity that has one."""
    known = [(float(s), gain["value"]) for s, gain in law["gain"].items() if gain["value"] is not None]
    return f" (gain at {percent(max(known)[0])}: {figure(max(known)[1], 3)}×)" if known else ""


def _share(far: Progress) -> str:
    steps = far.segments.steps
    done = far.segments.steps_done / steps if steps else far.runs.completed / max(far.runs.total, 1)
    return f"{done:.0%}"
