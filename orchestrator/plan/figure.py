"""The forest of a plan as a picture: one tree for each dense shape, steps to the right, branches below their trunk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitter.numbers import short
from orchestrator.plan.forest import PlannedSegment
from orchestrator.plan.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Trees in one picture; more could not be told apart.
MOST_TREES = 24

_TRUNK = "#1f2937"
#: Okabe and Ito's colours, which most eyes tell apart; by sparsity, lowest first.
_COLOURS = ("#e69f00", "#009e73", "#0072b2", "#cc79a7", "#d55e00", "#56b4e9")


def draw(plan: Plan, path: Path) -> None:
    """Write the picture; its kind follows the suffix (svg, png, pdf)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    trees = _trees(plan)
    shown = trees[:MOST_TREES]
    heights = [2.2 + max(row for _, row, _ in rows) for _, rows in shown]
    levels = sorted({run.cell.sparsity for run in plan.runs if run.cell.sparsity})
    colours = {level: _COLOURS[place % len(_COLOURS)] for place, level in enumerate(levels)}
    longest = max(segment.end for segment in plan.segments)
    with matplotlib.rc_context({"svg.hashsalt": plan.spec.name, "font.size": 8, "svg.fonttype": "none"}):
        figure, panels = plt.subplots(
            len(shown),
            1,
            sharex=True,
            squeeze=False,
            figsize=(8.0, 1.1 + 0.11 * sum(heights)),
            gridspec_kw={"height_ratios": heights},
            layout="constrained",
        )
        users, ends = _users(plan), {path[-1] for path in plan.paths}
        for (title, rows), axes in zip(shown, panels[:, 0], strict=True):
            _tree(axes, rows, users, ends, colours, plan.reused)
            axes.set_ylabel(title, rotation=0, ha="right", va="center")
            axes.set_xlim(0, longest * 1.02)
            axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
            axes.tick_params(labelbottom=axes is panels[-1, 0])
        panels[-1, 0].set_xlabel("training step; one tree for each dense shape, named by its linear weights")
        left_out = f"; {len(trees) - len(shown)} more trees are left out" if len(trees) > len(shown) else ""
        figure.suptitle(
            f"The segment forest of {plan.spec.name}: {len(plan.runs)} runs are {len(plan.segments)} segments; "
            f"sharing saves {100 * plan.saved:.1f} % of the FLOPs{left_out}",
            fontsize=9.5,
        )
        marks = [Line2D([], [], color=_TRUNK, lw=2.2, label="dense, shared by several runs")]
        marks += [Line2D([], [], color=_TRUNK, lw=0.9, label="dense, one run")]
        marks += [
            Line2D([], [], color=colours[level], lw=1.4, label=f"S = {100 * level:g} %") for level in levels
        ]
        marks += [Line2D([], [], color=_TRUNK, marker="o", ms=3.2, lw=0, label="a run ends: its loss")]
        if plan.reused:
            marks += [Line2D([], [], color="#9ca3af", lw=1.4, ls=":", label="done already")]
        figure.legend(
            handles=marks, loc="outside lower center", ncols=min(len(marks), 4), frameon=False, fontsize=7
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
        plt.close(figure)


def _trees(plan: Plan) -> list[tuple[str, list[tuple[PlannedSegment, int, int | None]]]]:
    """Title and rows of each tree: (segment, its row, its parent's row), smallest shape first."""
    children: dict[str | None, list[PlannedSegment]] = {}
    for segment in plan.segments:
        children.setdefault(segment.parent, []).append(segment)
    sizes = {run.program.static_text(): run.shape.linear for run in plan.runs}
    found: dict[str, list[PlannedSegment]] = {}
    for root in children.get(None, []):
        found.setdefault(root.program.static_text(), []).append(root)
    trees = []
    for static in sorted(found, key=lambda text: sizes[text]):
        rows: list[tuple[PlannedSegment, int, int | None]] = []
        row = -1
        for root in sorted(found[static], key=_later):
            row = _lay(root, row + 1, None, children, rows)
        seed = found[static][0].program.seed
        trees.append((short(sizes[static], " ") + (f"\nseed {seed}" if seed else ""), rows))
    return trees


def _lay(
    segment: PlannedSegment,
    row: int,
    parent_row: int | None,
    children: dict[str | None, list[PlannedSegment]],
    rows: list[tuple[PlannedSegment, int, int | None]],
) -> int:
    """Lay a segment and all below it; the last row used. The branch that goes on the longest stays on its trunk's row.

    Depth is that of the forest: the number of cuts on one path.
    """
    rows.append((segment, row, parent_row))
    last = row
    for place, child in enumerate(sorted(children.get(segment.key, []), key=_later)):
        last = _lay(child, row if place == 0 else last + 1, row, children, rows)
    return last


def _later(segment: PlannedSegment) -> tuple[bool, float, float]:
    """Dense ones first, then those whose program goes on the longest."""
    pruned = segment.program.pruning.sparsity > 0 and _masked(segment)
    return (pruned, -segment.program.steps, segment.program.pruning.sparsity)


def _masked(segment: PlannedSegment) -> bool:
    """Whether the segment prunes: its program may be one that only begins to, further on."""
    return any(
        piece.until > segment.start and piece.does["mask"].get("method") != "dense"
        for piece in segment.program.history()
        if piece.until >= segment.end
    ) and not any(
        piece.does["mask"].get("method") == "dense"
        for piece in segment.program.history()
        if piece.until >= segment.end
    )


def _users(plan: Plan) -> dict[str, int]:
    users: dict[str, int] = {}
    for path in plan.paths:
        for key in path:
            users[key] = users.get(key, 0) + 1
    return users


def _tree(
    axes: Axes,
    rows: list[tuple[PlannedSegment, int, int | None]],
    users: dict[str, int],
    ends: set[str],
    colours: dict[float, str],
    reused: frozenset[str],
) -> None:
    for segment, row, parent_row in rows:
        pruned = _masked(segment)
        colour = colours[segment.program.pruning.sparsity] if pruned else _TRUNK
        width = 2.2 if users.get(segment.key, 0) > 1 and not pruned else 1.4 if pruned else 0.9
        style = ":" if segment.key in reused else "-"
        axes.plot(
            [segment.start, segment.end], [row, row], color=colour, lw=width, ls=style, solid_capstyle="butt"
        )
        if segment.key in ends:
            axes.plot([segment.end], [row], color=colour, marker="o", ms=2.8, clip_on=False)
        if parent_row is not None and parent_row != row:
            axes.plot([segment.start] * 2, [parent_row, row], color="#9ca3af", lw=0.5, zorder=0)
    axes.set_ylim(max((row for _, row, _ in rows), default=0) + 0.8, -0.8)
    axes.set_yticks([])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=2)
