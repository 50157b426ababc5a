"""How is an effective context length drawn as a map of depth against length?

A light scheme's colours become the page's variables in `plots.svg`; those of the map do not, so that a number on its
colour can be read in both schemes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diptych.evaluation.context.result import Cell, ContextResult, TaskResult
from diptych.report.context_axes import DASHED, NARROW, WIDE
from diptych.report.context_words import depth_names, task_name, worst_scores
from diptych.report.plots import PALETTE, style
from diptych.report.words import ending

_DARK, _LIGHT = "#10131a", "#ffffff"
"""Of what stands on the map's colours; neither is one of the page's variables."""


def depth_map(result: ContextResult, task: TaskResult, *, narrow: bool = False) -> Figure:
    """Score by depth, the farthest on top, and length; `task` has at least one cell.

    A line runs between the cells at or above tau and those below it; the worst depth of a length is bold. Lengths that
    do not fit beside each other go on below.
    """
    lengths = sorted({cell.length for cell in task.cells})
    names = depth_names(task)
    most = _columns(lengths, narrow)
    panels = -(-len(lengths) // most)
    each = -(-len(lengths) // panels)
    parts = [lengths[k * each : (k + 1) * each] for k in range(panels)]
    cell = 0.36
    heads = [0.5 if _has_mark(result, task, lengths, part) else 0.02 for part in parts]
    heights = [*(head + cell * len(names) + 0.3 for head in heads), 0.24]
    with style():
        figure = Figure(figsize=(NARROW if narrow else WIDE, sum(heights) + 0.75), layout="constrained")
        grid: Any = figure.subplots(panels + 1, 1, height_ratios=heights, squeeze=False)
        for axes, part, head in zip(grid[:-1, 0], parts, heads, strict=True):
            _draw_map(axes, result, task, part)
            if (x := _claim_place(result, lengths, part)) is not None:
                _draw_claim(axes, result.claimed, x, len(names), longer=result.claimed > lengths[-1])
            axes.set_ylim(len(names) - 0.47, -0.5 - head / cell)
            axes.set_xlim(-0.52, max(each, 4) - 0.48)
        grid[-2, 0].set_xlabel("tokens of context", fontsize=8)
        _draw_key(grid[-1, 0], result.tau)
        figure.suptitle(
            ending(f"{result.name}: {task_name(task)}", 52 if narrow else 100), x=0.01, ha="left", fontsize=9
        )
    return figure


def _columns(lengths: Sequence[int], narrow: bool) -> int:
    """How many lengths fit side by side, each under its number."""
    points = 72 * ((NARROW if narrow else WIDE) - 0.9)
    return int(points // max(30.0, 4.6 * len(f"{lengths[-1]:,}") + 4))


def _has_mark(result: ContextResult, task: TaskResult, lengths: Sequence[int], part: Sequence[int]) -> bool:
    return task.passed in part or task.failed in part or _claim_place(result, lengths, part) is not None


def _claim_place(result: ContextResult, lengths: Sequence[int], part: Sequence[int]) -> float | None:
    """Where in a part of the lengths the last stands that the claim covers; None: in another part."""
    if result.claimed < lengths[0]:
        return -0.5 if part[0] == lengths[0] else None
    last = max(n for n in lengths if n <= result.claimed)
    return part.index(last) + 0.5 if last in part else None


def _draw_map(axes: Axes, result: ContextResult, task: TaskResult, lengths: Sequence[int]) -> None:
    cells = {(cell.length, cell.depth): cell for cell in task.cells}
    names, worst = depth_names(task), worst_scores(task)
    for x, length in enumerate(lengths):
        best = max(cell.score for cell in task.cells if cell.length == length)
        for depth in range(len(names)):
            cell = cells.get((length, depth))
            _draw_cell(axes, x, depth, cell, bold=cell is not None and cell.score == worst[length] < best)
    _draw_border(axes, cells, lengths, len(names), result.tau)
    for end, word, colour in ((task.passed, "passed", "model"), (task.failed, "failed", "second")):
        if end is not None and end in lengths:
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "fontweight": "bold"}
            axes.text(list(lengths).index(end), -0.8, word, color=PALETTE[colour], **look)
    axes.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _draw_cell(axes: Axes, x: int, depth: int, cell: Cell | None, *, bold: bool) -> None:
    place = (x - 0.5, depth - 0.5)
    if cell is None:
        axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=PALETTE["line"], linewidth=0.6))
        return
    colour = _shade(cell.score)
    axes.add_patch(Rectangle(place, 1, 1, facecolor=colour, edgecolor=colour, linewidth=0.4))
    ink: dict[str, Any] = {"color": _LIGHT if cell.score < 0.55 else _DARK, "ha": "center"}
    axes.text(x, depth, f"{cell.score:.2f}", va="bottom", fontsize=8.5, fontweight="bold" if bold else "normal", **ink)
    axes.text(x, depth + 0.06, f"n {cell.n}", va="top", fontsize=7, **ink)


def _shade(score: float) -> str:
    """Cividis, whose lightness grows evenly and which does not tell red from green; below a guess as a guess."""
    return mpl.colors.to_hex(mpl.colormaps["cividis"](min(1.0, max(0.0, score))))


def _draw_border(
    axes: Axes, cells: Mapping[tuple[int, int], Cell], lengths: Sequence[int], depths: int, tau: float
) -> None:
    """A line between neighbours of which one reaches tau and the other does not."""
    for x, length in enumerate(lengths):
        for depth in range(depths):
            here = cells.get((length, depth))
            right = cells.get((lengths[x + 1], depth)) if x + 1 < len(lengths) else None
            below = cells.get((length, depth + 1))
            for there, xs, ys in (
                (right, (x + 0.5, x + 0.5), (depth - 0.5, depth + 0.5)),
                (below, (x - 0.5, x + 0.5), (depth + 0.5, depth + 0.5)),
            ):
                if here is not None and there is not None and (here.score >= tau) != (there.score >= tau):
                    axes.plot(xs, ys, color=_LIGHT, linewidth=3.4, solid_capstyle="projecting", zorder=3)
                    axes.plot(xs, ys, color=_DARK, linewidth=1.6, solid_capstyle="projecting", zorder=4)


def _draw_claim(axes: Axes, claimed: int, x: float, depths: int, *, longer: bool) -> None:
    """A line after the last length that the claim covers. longer: the claim goes beyond all that was asked."""
    axes.plot([x, x], [-1.05, depths - 0.5], color=PALETTE["ink"], linewidth=1, linestyle=DASHED, zorder=5)
    side: dict[str, Any] = {"ha": "right" if x > 1.5 else "left", "va": "center", "fontsize": 8}
    axes.text(x, -1.45, f"claimed {claimed:,}{' →' if longer else ''}", **side)


def _draw_key(axes: Axes, tau: float) -> None:
    steps = 40
    for k in range(steps):
        colour = _shade((k + 0.5) / steps)
        # Each covers the rest, so that no seam shows between two.
        axes.add_patch(Rectangle((k / steps, 0), 1 - k / steps, 1, facecolor=colour, linewidth=0))
    axes.plot([tau, tau], [0, 1], color=_LIGHT, linewidth=3.4)
    axes.plot([tau, tau], [0, 1], color=_DARK, linewidth=1.6)
    axes.annotate(f"τ {tau:g}", (tau, 1), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0: a guess", "score", "1"], fontsize=8)
    axes.xaxis.get_ticklabels()[0].set_horizontalalignment("left")
    axes.xaxis.get_ticklabels()[-1].set_horizontalalignment("right")
    axes.yaxis.set_visible(False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
