"""`lacuna submit SPEC`: a sweep into the ledger, here or behind a service; a controller there carries it out."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.command.facts import InputError, Source
from orchestrator.command.output import console, flops, percent, print_json
from orchestrator.command.source import api_option, open_source

if TYPE_CHECKING:
    from orchestrator.submit import Submitted


@click.command(name="submit")
@click.argument("spec", type=click.Path(path_type=Path))
@api_option
@click.option(
    "--as",
    "kind",
    type=click.Choice(["rayjob"]),
    help="Submit nothing: print SPEC as a manifest for `kubectl apply`, which runs it on the chart's cluster.",
)
@click.option(
    "--cluster", default="lacuna", show_default=True, help="With --as: the RayCluster, named as the release."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(spec: Path, api: str | None, kind: str | None, cluster: str, as_json: bool) -> None:
    """Check and plan SPEC and hand the sweep over, without running it here. SPEC may be `-`: standard input.

    A long-lived controller (`lacuna controller`) on that ledger carries it out; so does the next `lacuna run SPEC`.
    The same spec twice is one sweep; a larger grid under the same name adds its new runs.

    \b
      lacuna submit sweep.yaml
      lacuna submit sweep.yaml --api http://gpu-box:8321
      lacuna submit sweep.yaml --as rayjob | kubectl apply -f -
    """
    text = read_spec(spec)
    if kind is not None:
        if api is not None:
            raise click.UsageError("--as prints a manifest and asks no service: leave --api out")
        from orchestrator.rayjob import as_yaml, rayjob

        manifest = rayjob(text, str(spec), cluster=cluster)
        if as_json:
            print_json(manifest)
        else:
            click.echo(as_yaml(manifest), nl=False)
        return
    with open_source(api) as source:
        submitted = submit(source, text, str(spec), quiet=as_json)
    if as_json:
        print_json(asdict(submitted))
    else:
        console().print(f"watch it: `lacuna watch {submitted.name}{f' --api {api}' if api else ''}`")


def read_spec(path: Path) -> bytes:
    """The bytes of a spec's file, of standard input where it is `-`. Raises InputError."""
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def submit(source: Source, text: bytes, name: str, *, quiet: bool) -> Submitted:
    """Submit a spec and say what became of it; on stderr where stdout is for JSON."""
    out = console(stderr=quiet)
    told = False

    def preparing(tokens: int) -> None:
        nonlocal told
        if not told:
            out.print("preparing the data …")
            told = True

    submitted = source.submit(text, name, preparing)
    plan = submitted.plan
    said = {"created": "new", "extended": f"{submitted.runs_added} new runs", "unchanged": "known"}
    out.print(
        f"sweep {submitted.name} ({said[submitted.outcome]}): {plan['runs']} runs in {plan['segments']} segments, "
        f"{flops(plan['flops']['shared'])} instead of {flops(plan['flops']['alone'])} "
        f"(sharing saves {percent(round(plan['saved'], 3))})"
    )
    for warning in plan["warnings"]:
        out.print(f"warning: {warning}", style="yellow")
    if not submitted.created:
        now = source.progress(submitted.name)
        if now.state in ("paused", "cancelled"):
            out.print(f"{now.sweep} is {now.state}: `lacuna resume {now.sweep}` lets it go on")
        if now.failed:
            out.print(f"{now.failed} of its runs failed: `lacuna retry {now.sweep}` tries them again")
    return submitted
