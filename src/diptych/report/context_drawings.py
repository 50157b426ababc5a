"""How is an effective context length drawn: depth against length, distance, loss, and several models side by side?

A light scheme's colours become the page's variables in `plots.svg`; those of the maps do not, so that a number on its
colour can be read in both schemes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from diptych.evaluation.context.result import (
    Cell,
    ContextResult,
    Distance,
    DistanceBin,
    Positions,
    Saturation,
    TaskResult,
)
from diptych.evaluation.context.types import N_DEPTHS
from diptych.evaluation.intervals import wilson
from diptych.report.plots import PALETTE, style

_WIDE, _NARROW = 7.4, 3.9
_DARK, _LIGHT = "#10131a", "#ffffff"
"""Of what stands on a map's colours; neither is one of the page's variables."""

_COLOURS: Final = (PALETTE["model"], PALETTE["second"], PALETTE["ink"], PALETTE["other"])
_MARKERS: Final = "os^DvPX*"
_DASHED: Final = (0, (4, 3))
_SMALL: Final[dict[str, Any]] = {"fontsize": 8, "color": PALETTE["muted"]}
_TITLE: Final[dict[str, Any]] = {"loc": "left", "fontsize": 9, "color": PALETTE["ink"]}


def depth_names(task: TaskResult) -> tuple[str, ...]:
    """The depths that a task tells apart, the farthest from the question first."""
    if all(cell.depth == 0 for cell in task.cells):
        return ("whole",)
    return tuple(f"{100 * k // N_DEPTHS}–{100 * (k + 1) // N_DEPTHS} %" for k in range(N_DEPTHS))


def worst_scores(task: TaskResult) -> Mapping[int, float]:
    """Length in tokens -> the least score, corrected for chance, of any depth that was asked there."""
    lengths = sorted({cell.length for cell in task.cells})
    return {n: min(cell.score for cell in task.cells if cell.length == n) for n in lengths}


def task_name(task: TaskResult) -> str:
    """A task and the style in which it is asked."""
    return f"{task.task.replace('_', ' ')} ({task.style})"


def bracket_words(task: TaskResult) -> str:
    """The effective length in a few words, without the claim that `sentence` compares it with."""
    if task.state == "none":
        return "none" if task.failed is None else f"none: fails at {task.failed:,}"
    if task.passed is None:
        return "undecided" if task.failed is None else f"below {task.failed:,}, undecided"
    undecided = ", undecided" if task.state == "undecided" else ""
    if task.failed is None:
        return f"at least {task.passed:,}{undecided}"
    return f"{task.passed:,} to {task.failed:,}{undecided}"


def distance_words(distance: Distance | None) -> str:
    """An effective distance and its interval in words."""
    if distance is None:
        return "not fitted"
    if distance.value is None:
        ends = {True: "above τ as far as was asked", False: "below τ from the nearest on", None: "not fitted"}
        return ends[distance.beyond]
    value, low, high = f"{distance.value:,.0f} tokens", distance.low, distance.high
    if low is None:
        return f"{value} (95 %: not bounded)" if high is None else f"{value} (95 %: up to {high:,.0f})"
    return f"{value} (95 %: {low:,.0f} or more)" if high is None else f"{value} (95 %: {low:,.0f} to {high:,.0f})"


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
        figure = Figure(figsize=(_NARROW if narrow else _WIDE, sum(heights) + 0.75), layout="constrained")
        grid: Any = figure.subplots(panels + 1, 1, height_ratios=heights, squeeze=False)
        for axes, part, head in zip(grid[:-1, 0], parts, heads, strict=True):
            _draw_map(axes, result, task, part)
            if (x := _claim_place(result, lengths, part)) is not None:
                _draw_claim(axes, result.claimed, x, len(names), longer=result.claimed > lengths[-1])
            axes.set_ylim(len(names) - 0.47, -0.5 - head / cell)
            axes.set_xlim(-0.52, max(each, 4) - 0.48)
        grid[-2, 0].set_xlabel("tokens of context", fontsize=8)
        _draw_key(grid[-1, 0], result.tau)
        figure.suptitle(_cut(f"{result.name}: {task_name(task)}", 52 if narrow else 100), x=0.01, ha="left", fontsize=9)
    return figure


def _columns(lengths: Sequence[int], narrow: bool) -> int:
    """How many lengths fit side by side, each under its number."""
    points = 72 * ((_NARROW if narrow else _WIDE) - 0.9)
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
    axes.plot([x, x], [-1.05, depths - 0.5], color=PALETTE["ink"], linewidth=1, linestyle=_DASHED, zorder=5)
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


def distance_curve(result: ContextResult, task: TaskResult, *, narrow: bool = False) -> Figure:
    """Accuracy against the distance of the needle, with Wilson intervals; above it how often training showed each
    distance, where that is known. `task` has at least one bin."""
    positions = result.positions
    heights = [0.7, 2.9] if positions is not None else [2.9]
    with style():
        size = (_NARROW if narrow else _WIDE, sum(heights) + 0.75)
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)
        axes = grid[-1, 0]
        _draw_accuracy(axes, task.distances)
        chance = 1 / task.n_candidates
        _level(axes, chance + result.tau * (1 - chance), f"τ {result.tau:g}")
        _level(axes, chance, "chance")
        _draw_distance(axes, task.distance)
        axes.set_ylim(-0.02, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("tokens from the needle to the end of the question")
        axes.set_ylabel("right answers")
        axes.set_title(f"effective distance: {_broken(distance_words(task.distance), narrow)}", **_TITLE)
        first, last = task.distances[0].first, task.distances[-1].last
        if positions is not None:
            last = max(last, *positions.distances)
            _draw_positions(grid[0, 0], positions)
        _log_tokens(axes, first / 1.15, last * 1.15, narrow)
        figure.suptitle(_cut(f"{result.name}: {task_name(task)}", 52 if narrow else 100), x=0.01, ha="left", fontsize=9)
    return figure


def _draw_accuracy(axes: Axes, bins: Sequence[DistanceBin]) -> None:
    places = [math.sqrt(of.first * of.last) for of in bins]
    shares = [of.right / of.count for of in bins]
    for place, of in zip(places, bins, strict=True):
        low, high = wilson(of.right, of.count)
        axes.plot([place, place], [low, high], color=PALETTE["model"], linewidth=1.1, zorder=3)
    axes.plot(places, shares, color=PALETTE["model"], linewidth=1.4, marker="o", markersize=4, zorder=3)


def _draw_distance(axes: Axes, distance: Distance | None) -> None:
    if distance is None or distance.value is None:
        return
    if distance.low is not None and distance.high is not None:
        axes.axvspan(distance.low, distance.high, color=PALETTE["second"], alpha=0.13, linewidth=0)
    axes.axvline(distance.value, color=PALETTE["second"], linewidth=1.3)


def _draw_positions(axes: Axes, positions: Positions) -> None:
    axes.fill_between(positions.distances, positions.shares, color=PALETTE["muted"], alpha=0.22, linewidth=0)
    axes.plot(positions.distances, positions.shares, color=PALETTE["muted"], linewidth=1.2)
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 1], ["0", "1"])
    axes.tick_params(length=0, labelbottom=False)
    axes.set_title("how often training showed a distance, against distance 1", loc="left", **_SMALL)


def loss_curves(result: ContextResult, *, narrow: bool = False) -> Figure:
    """Mean loss by context, and what each doubling of it saves; `result` has a saturation."""
    saturation = result.saturation
    assert saturation is not None
    with style():
        figure = Figure(figsize=(_NARROW, 5.4) if narrow else (_WIDE, 3.2), layout="constrained")
        panels: Any = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
        losses, gains = panels
        losses.plot(saturation.lengths, saturation.losses, color=PALETTE["model"], linewidth=1.4, marker="o", ms=4)
        losses.set_title("mean loss, nats a token", **_TITLE)
        for of in saturation.gains:
            gains.plot([of.length] * 2, [of.low, of.high], color=PALETTE["model"], linewidth=1.1, zorder=3)
        gains.plot(
            [of.length for of in saturation.gains],
            [of.gain for of in saturation.gains],
            color=PALETTE["model"],
            linewidth=1.4,
            marker="o",
            markersize=4,
        )
        _level(gains, saturation.epsilon, f"ε {saturation.epsilon:g}")
        gains.axhline(0, color=PALETTE["line"], linewidth=1, zorder=0)
        gains.set_title("saved by the last doubling, nats a token", **_TITLE)
        for axes in panels:
            if saturation.saturation is not None:
                axes.axvline(saturation.saturation, color=PALETTE["second"], linewidth=4, alpha=0.35, zorder=1)
            axes.set_xlabel("tokens of context")
            _log_tokens(axes, min(saturation.lengths) / 1.2, max(saturation.lengths) * 1.2, narrow=True)
        title = f"{_cut(result.name, 52)}\nloss saturation: {saturation_words(saturation)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    return figure


def saturation_words(saturation: Saturation) -> str:
    """Where the loss saturates, in words."""
    if saturation.saturation is None:
        return "no doubling surely saves more than ε"
    if saturation.censored:
        return f"at least {saturation.saturation:,} tokens, the longest asked"
    return f"{saturation.saturation:,} tokens"


def brackets(results: Sequence[ContextResult], *, narrow: bool = False) -> Figure:
    """A bar from passed to failed for every result and task, open at the end where nothing failed; and the claims.

    Solid: certified. Hollow: undecided in between. A cross: what none passes and where it fails.
    """
    groups = _groups(results)
    ends = [n for result in results for n in (result.claimed, *_known(result))]
    low, high = min(ends) / 1.6, max(ends) * 1.6
    row, heading = (0.44 if narrow else 0.3), 0.3
    height = sum(heading + row * len(rows) for rows in groups.values())
    with style():
        figure = Figure(figsize=(_NARROW if narrow else _WIDE, height + 0.8), layout="constrained")
        axes = figure.add_subplot()
        places, names, top = [], [], 0.0
        for title, rows in groups.items():
            above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontweight": "bold", "fontsize": 8.5}
            axes.annotate(title, (0, top + heading * 0.55), va="center", annotation_clip=False, **above)
            top += heading
            for result, task in rows:
                place = top + (0.68 if narrow else 0.5) * row
                _draw_bracket(axes, task, place, (low, high))
                axes.plot(result.claimed, place, marker="|", markersize=13, markeredgewidth=1.8, color=PALETTE["ink"])
                _name_bracket(axes, result.name, bracket_words(task), place, narrow)
                places.append(place)
                names.append(_cut(result.name, 34))
                top += row
        axes.set_ylim(top + 0.05, 0)
        axes.set_yticks(places, ["" if narrow else name for name in names])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"], labelsize=8)
        _log_tokens(axes, low, high, narrow or any(len(name) > 20 for name in names))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("tokens; upright mark: claimed")
    return figure


def _groups(results: Sequence[ContextResult]) -> dict[str, list[tuple[ContextResult, TaskResult]]]:
    """Every task by its name, with the results that have it."""
    groups: dict[str, list[tuple[ContextResult, TaskResult]]] = {}
    for result in results:
        for task in result.tasks:
            groups.setdefault(task_name(task), []).append((result, task))
    return groups


def _known(result: ContextResult) -> Iterable[int]:
    for task in result.tasks:
        yield from (n for n in (task.passed, task.failed) if n is not None)
        yield from (cell.length for cell in task.cells)


def _draw_bracket(axes: Axes, task: TaskResult, place: float, ends: tuple[float, float]) -> None:
    """ends: of the axis, in tokens."""
    colour, passed, failed, half = PALETTE["model"], task.passed, task.failed, 0.11
    low, high = ends
    if task.state == "none" or passed is None:
        if failed is not None:
            axes.plot(failed, place, marker="x", markersize=6, markeredgewidth=1.8, color=PALETTE["second"])
        return
    axes.plot([low, passed], [place] * 2, color=colour, linewidth=1.2, alpha=0.5)
    if failed is None:
        end = min(high, passed * (high / low) ** 0.12)
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (end, place), (passed, place), arrowprops=arrow)
        axes.plot([passed] * 2, [place - half, place + half], color=colour, linewidth=2.2)
        return
    look: dict[str, Any] = {"facecolor": "none" if task.state == "undecided" else colour, "edgecolor": colour}
    axes.add_patch(Rectangle((passed, place - half), failed - passed, 2 * half, linewidth=1.3, **look))


def _name_bracket(axes: Axes, name: str, words: str, place: float, narrow: bool) -> None:
    text: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 8, "annotation_clip": False}
    if narrow:
        axes.annotate(_cut(name, 26), (0, place - 0.15), va="bottom", **text)
        axes.annotate(words, (1, place - 0.15), va="bottom", ha="right", color=PALETTE["model"], **text)
    else:
        axes.annotate(words, (1.015, place), va="center", color=PALETTE["model"], **text)


def worst_depths(results: Sequence[ContextResult], *, narrow: bool = False) -> Figure:
    """The score of the worst depth against length, a line a result, a panel a task; some task has a cell."""
    asked_of = {title: [row for row in rows if row[1].cells] for title, rows in _groups(results).items()}
    groups = {title: rows for title, rows in asked_of.items() if rows}
    across = 1 if narrow or len(groups) == 1 else 2
    down = -(-len(groups) // across)
    labels = 0.22 * len(results)
    with style():
        size = (_NARROW if narrow else _WIDE, (2.5 if across == 2 or narrow else 3.2) * down + labels)
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(down, across, squeeze=False)
        panels = list(grid.flatten())
        lines: dict[int, Any] = {}
        for axes, (title, rows) in zip(panels, groups.items(), strict=False):
            for result, task in rows:
                number = next(k for k, of in enumerate(results) if of is result)
                worst = worst_scores(task)
                (lines[number],) = axes.plot(list(worst), list(worst.values()), **_line(number))
            for tau in sorted({result.tau for result, _ in rows}):
                _level(axes, tau, f"τ {tau:g}")
            asked = [cell.length for _, task in rows for cell in task.cells]
            scores = [score for _, task in rows for score in worst_scores(task).values()]
            axes.set_ylim(min(0.0, *scores) - 0.05, 1.05)
            axes.set_title(title, **_TITLE)
            axes.set_xlabel("tokens of context")
            axes.set_ylabel("score, worst depth")
            _log_tokens(axes, min(asked) / 1.2, max(asked) * 1.2, narrow=True)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        order = sorted(lines)
        names = [_cut(results[k].name, 48 if narrow else 90) for k in order]
        figure.legend([lines[k] for k in order], names, frameon=False, fontsize=8, loc="outside lower left")
    return figure


def _line(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": "solid" if number < len(_COLOURS) else _DASHED,
        "markersize": 4.0,
        "linewidth": 1.4,
    }


def _level(axes: Axes, value: float, label: str) -> None:
    """A dashed line across, its label outside on the right, where no point is."""
    axes.axhline(value, color=PALETTE["muted"], linewidth=1, linestyle=_DASHED, zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(label, (1, value), (4, 0), ha="left", va="center", **place, **_SMALL)


def _log_tokens(axes: Axes, low: float, high: float, narrow: bool) -> None:
    """A logarithmic axis of tokens whose few ticks are powers of two."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    powers = [2**k for k in range(64) if low <= 2**k <= high] or [round(math.sqrt(low * high))]
    step = max(1, -(-len(powers) // (5 if narrow else 9)))
    axes.xaxis.set_major_locator(FixedLocator(powers[::-1][::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="both")
    axes.set_axisbelow(True)


def _broken(text: str, narrow: bool) -> str:
    return text.replace(" (", "\n(") if narrow else text


def _cut(text: str, width: int) -> str:
    """The end of a name, which tells a model's files and extensions apart."""
    return text if len(text) <= width else "…" + text[1 - width :]
