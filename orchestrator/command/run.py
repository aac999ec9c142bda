"""`lacuna run SPEC`: a sweep from its YAML file to its law, on this machine, with live progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.live import Live

from ledger import sweeps
from ledger.settings import Settings
from orchestrator.command.connection import ledger_engine, ledger_session
from orchestrator.command.facts import InputError
from orchestrator.command.ledger_source import LedgerSource
from orchestrator.command.output import (
    console,
    count,
    duration,
    figure,
    flops,
    percent,
    print_json,
    shares,
    table,
)
from orchestrator.command.submit import read_spec, submit

if TYPE_CHECKING:
    from ledger.controllers import Leader
    from ledger.progress import Progress
    from orchestrator.submit import Submitted


@click.command(name="run")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Runs at a time; default: one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
def command(spec: Path, max_concurrent: int | None, as_json: bool) -> None:
    """Run the sweep in SPEC (`-`: standard input) to its end and print its law. Interrupted, the same command goes on
    where it was.

    \b
      lacuna run examples/quickstart.yaml
    """
    settings = Settings.from_environment()
    text = read_spec(spec)
    started = time.monotonic()
    with ledger_engine(settings) as engine:
        submitted = submit(LedgerSource(settings, engine), text, str(spec), quiet=as_json)
        finished = _carry_out(settings, submitted.name, max_concurrent, quiet=as_json)
    if as_json:
        print_json({"sweep": submitted.name, "plan": submitted.plan, "progress": asdict(finished)})
    else:
        _report(settings, submitted, finished, time.monotonic() - started)
    if finished.completed < finished.total:
        raise click.exceptions.Exit(1)


def _carry_out(settings: Settings, name: str, max_concurrent: int | None, *, quiet: bool) -> Progress:
    from orchestrator import controller

    aside = console(stderr=True)

    def following(leader: Leader) -> None:
        who = f"process {leader.process} on {leader.host}"
        aside.print(f"another controller leads on this ledger ({who}): it takes this sweep on, too …")

    with _progress_view(quiet) as show:
        outcome = controller.run(
            settings, [name], on_progress=show, max_concurrent=max_concurrent, on_following=following
        )
    if outcome.tracking_trouble:
        aside.print(f"warning: {outcome.tracking_trouble}", style="yellow")
    (state,) = outcome.sweeps
    if outcome.interrupted:
        aside.print(
            f"stopped, {state.completed} of {state.total} runs done; the same command goes on from the checkpoints"
        )
        raise click.exceptions.Exit(130)
    return state


@contextmanager
def _progress_view(quiet: bool) -> Iterator[Any]:
    """Something that takes Progress: a live line on a terminal, a plain line every ten seconds elsewhere."""
    out = console(stderr=True)
    began = time.monotonic()
    if out.is_terminal and not quiet:
        with Live(console=out, refresh_per_second=4, transient=True) as live:
            yield lambda state: live.update(_line(state, time.monotonic() - began))
        return
    last = -10.0

    def plain(state: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if not quiet and now - last >= 10:
            last = now
            out.print(_line(state, now - began))

    yield plain


def _line(state: Progress, elapsed: float) -> str:
    share = state.steps_done / state.steps_total if state.steps_total else 1.0
    failed = f", {state.failed + state.diverged} failed" if state.failed + state.diverged else ""
    return (
        f"{share:4.0%}  {state.completed}/{state.total} runs done, {state.running} running{failed}  "
        f"best loss {figure(state.best_loss)}  {duration(elapsed)} gone, {duration(state.eta_seconds)} left"
    )


def _report(settings: Settings, submitted: Submitted, finished: Progress, seconds: float) -> None:
    from orchestrator.command.law import other_groups, show_law

    out = console()
    out.print(
        f"{finished.completed} of {finished.total} runs done in {duration(seconds)}; "
        f"best loss {figure(finished.best_loss)} ({finished.best_run or 'none'})"
    )
    if finished.failed or finished.diverged:
        out.print(
            f"{finished.failed} failed, {finished.diverged} diverged: `lacuna runs {finished.sweep} --failed`",
            style="red",
        )
    out.print()
    try:
        with ledger_engine(settings) as engine:
            source = LedgerSource(settings, engine)
            document = source.law(finished.sweep)
            others = other_groups(source, document)
    except InputError as error:
        out.print(str(error))
    else:
        show_law(document, others)
        out.print()
        out.print(optima_table(finished.sweep, document))
    plan = submitted.plan
    spent = plan["flops"]
    out.print()
    out.print(
        f"{plan['runs_sharing']} of {plan['runs']} runs shared training with others: "
        f"{flops(spent['shared'])} instead of {flops(spent['alone'])}, {percent(round(plan['saved'], 3))} saved"
    )
    for line in addresses(settings, finished.sweep):
        out.print(line, markup=False)


def optima_table(sweep: str, document: dict[str, Any]) -> Any:
    """Optimal sparsity at the sweep's sizes, for the compute of its shortest, its longest and four times its longest
    dense run."""
    from fitter.law import Law
    from ledger import runs
    from orchestrator.command.optimum import ask

    with ledger_session() as session:
        rows = runs.table(session, sweep)
    law = Law.from_document(document)
    lengths = sorted({row["data"] for row in rows})
    sizes = sorted({row["nonzero_params"] for row in rows if row["sparsity"] == 0})
    lines = []
    for params in dict.fromkeys([sizes[0], sizes[-1]] if sizes else []):
        for data in (lengths[0], lengths[-1], 4 * lengths[-1]):
            answer = ask(law, params, 6 * params * data)
            lines.append(
                (
                    count(params),
                    flops(6 * params * data),
                    percent(round(answer["sparsity"], 3)),
                    shares(answer["low"], answer["high"]),
                    figure(answer["loss"]),
                    "extrapolated" if answer["extrapolates"] else "",
                )
            )
    heads = [">N", ">compute", ">optimal sparsity", f"{100 * law.level:g} % interval", ">loss there", ""]
    return table(heads, lines)


def addresses(settings: Settings, sweep: str) -> list[str]:
    """Where to look, if the service runs; how to start it, if not."""
    from fitter.mlflow_pages import experiment_page
    from orchestrator.command.serve_record import running

    service = running(settings)
    if service is None:
        return ["look at it: `lacuna serve`"]
    lines = [f"page    {service['url']}/sweeps/{sweep}"]
    if service.get("mlflow_url"):
        with ledger_session(settings) as session:
            experiment = sweeps.get(session, sweep).tracking_id
        # MLflow's own first page speaks of other things: lead to the sweep's experiment where there is one yet.
        root = service["mlflow_url"]
        lines.append(f"MLflow  {experiment_page(root, experiment) if experiment else root}")
    return [*lines, f"REST    {service['url']}/v1/sweeps/{sweep}/law"]
