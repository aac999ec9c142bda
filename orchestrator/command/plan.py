"""`lacuna plan`: what a spec would run, share and cost, before a FLOP is spent."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ledger.errors import LedgerError
from ledger.settings import Settings
from orchestrator.at_hand import costs_of, plan_for
from orchestrator.command.connection import ledger_engine
from orchestrator.command.output import (
    console,
    count,
    duration,
    flops,
    money,
    percent,
    print_json,
    size,
    table,
)
from orchestrator.plan.figure import draw
from orchestrator.plan.packing import packing
from orchestrator.plan.plan import Plan
from orchestrator.plan.speeds import SpeedBook
from orchestrator.plan.uncollected import uncollected
from orchestrator.pools import declared
from orchestrator.spec import load_spec_file
from orchestrator.spec.schema import ExecutionSpec


@click.command(name="plan")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the forest into this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(spec: Path, figure: Path | None, as_json: bool) -> None:
    """Show the runs of SPEC, the segment forest that shares their work, what it saves, and what it costs where.

    \b
      lacuna plan examples/quickstart.yaml
      lacuna plan examples/quickstart.yaml --figure forest.svg
    """
    with uncollected():
        _plan(spec, figure, as_json)


def _plan(spec: Path, figure: Path | None, as_json: bool) -> None:
    settings = Settings.from_environment()
    checked = load_spec_file(spec, declared(settings))
    unreachable: str | None = None
    try:
        with ledger_engine(settings) as engine:
            plan = plan_for(settings, checked, engine)
            costs = costs_of(settings, plan, engine)
    except LedgerError as error:
        # A plan is worth having without a ledger: it only cannot know what is done and measured already.
        unreachable = f"what is done already is not known: {error}"
        plan = plan_for(settings, checked, None)
        costs = costs_of(settings, plan, None)
    now = datetime.now().astimezone()
    document = {**plan.document(), "pools": [cost.document(now) for cost in costs]}
    packed = packing(plan.segments, checked.execution.pack, SpeedBook(settings.home))
    # A pack computes no less: the FLOPs of runs that, trained one by one, would take as long as the packed sweep.
    document["flops"]["packed"] = plan.flops_shared / packed.gain
    document["packing"] = {
        "packs": len(packed.packs),
        "segments": packed.segments,
        "gain": packed.gain,
        "basis": "measured" if packed.packs and packed.measured else "estimated",
    }
    if unreachable:
        document["warnings"].append(unreachable)
    if figure is not None:
        draw(plan, figure)
    if as_json:
        print_json(document)
    else:
        _show(plan, document)


def _show(plan: Plan, document: dict[str, Any]) -> None:
    out = console()
    out.print(f"sweep {document['name']}: {document['runs']} runs, {document['segments']} segments")
    spent = document["flops"]
    rows = [
        ("every run alone", flops(spent["alone"]), ""),
        ("sharing", flops(spent["shared"]), f"saves {percent(document['saved'])}"),
        ("left to do", flops(spent["left"]), f"{document['reused']} segments are done already"),
    ]
    packs = document["packing"]
    if packs["packs"]:
        note = f"as long as so many; {packs['packs']} packs of {packs['segments']} segments, {packs['basis']}"
        rows.insert(2, ("packed takes", flops(spent["packed"]), note))
    out.print(table(["cost (dense accounting)", ">FLOPs", ""], rows))
    out.print()
    out.print(_pools(document["pools"]))
    out.print()
    out.print(_shapes(plan))
    out.print()
    if plan.spec.execution.strategy == "adaptive":
        out.print(f"adaptive: {_until(plan.spec.execution)}; all above is of the whole grid")
    largest = document["checkpoints"][0]
    out.print(f"largest checkpoint: {size(largest['bytes'])} ({largest['run']})")
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow")


def _until(execution: ExecutionSpec) -> str:
    ends = []
    if execution.budget_flops is not None:
        ends.append(f"{flops(execution.budget_flops)} are spent")
    if execution.wanted_interval is not None:
        ends.append(f"the law's interval is ±{execution.wanted_interval:.2%}")
    return f"trains the cells that teach most per FLOP until {' or '.join(ends)}"


def _pools(pools: list[dict[str, Any]]) -> Any:
    rows = []
    for pool in pools:
        price = pool["cost"]
        hours = pool["device_hours"]
        measured = pool["basis"] == "measured"
        notes = [f"measured on {pool['segments_measured']} segments" if measured else "estimated"]
        notes += ["named by the spec"] * pool["chosen"] + ["not declared: assumed"] * pool["assumed"]
        rows.append(
            (
                pool["name"],
                f"{pool['accelerator']} {pool['topology'] or ''}".strip(),
                str(pool["runs_at_a_time"]),
                f"{hours:.3g}" if hours < 1000 else f"{hours:,.0f}",
                f"{money(price['low'])} … {money(price['high'])}" if price else "–",
                duration(pool["seconds"]),
                datetime.fromisoformat(pool["ends_at"]).strftime("%d %b %Y %H:%M")
                if pool["ends_at"]
                else "never",
                ", ".join(notes),
            )
        )
    heads = ["pool", "chips", ">at a time", ">device-hours", ">cost", ">takes", "would end", ""]
    return table(heads, rows)


def _shapes(plan: Plan) -> Any:
    shapes: dict[tuple[tuple[str, int], ...], tuple[Any, set[str], int]] = {}
    for run in plan.runs:
        key = tuple(sorted(run.shape.dims.items()))
        shape, sparsities, runs = shapes.get(key, (run.shape, set(), 0))
        sparsities.add(percent(run.cell.sparsity))
        shapes[key] = (shape, sparsities, runs + 1)
    lines = [
        (
            " × ".join(f"{name} {shape.dims[name]}" for name in ("d_model", "d_ff") if name in shape.dims),
            count(shape.linear),
            count(shape.total),
            f"{shape.error:+.2%}",
            ", ".join(sorted(sparsities, key=lambda text: float(text.split()[0]))),
            str(runs),
        )
        for shape, sparsities, runs in shapes.values()
    ]
    heads = ["dense shape", ">linear weights", ">all weights", ">off target", "sparsities", ">runs"]
    return table(heads, lines)
