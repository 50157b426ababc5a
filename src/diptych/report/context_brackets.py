"""How do the effective context lengths of several models and tasks look side by side?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diptych.evaluation.context.result import ContextResult, TaskResult
from diptych.report.context_axes import DASHED, NARROW, TITLE, WIDE, level, log_tokens
from diptych.report.context_words import bracket_words, task_name, worst_scores
from diptych.report.plots import PALETTE, style
from diptych.report.words import ending

_COLOURS: Final = (PALETTE["model"], PALETTE["second"], PALETTE["ink"], PALETTE["other"])
_MARKERS: Final = "os^DvPX*"


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
        figure = Figure(figsize=(NARROW if narrow else WIDE, height + 0.8), layout="constrained")
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
                names.append(ending(result.name, 34))
                top += row
        axes.set_ylim(top + 0.05, 0)
        axes.set_yticks(places, ["" if narrow else name for name in names])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"], labelsize=8)
        log_tokens(axes, low, high, narrow or any(len(name) > 20 for name in names))
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
        axes.annotate(ending(name, 26), (0, place - 0.15), va="bottom", **text)
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
        size = (NARROW if narrow else WIDE, (2.5 if across == 2 or narrow else 3.2) * down + labels)
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
                level(axes, tau, f"τ {tau:g}")
            asked = [cell.length for _, task in rows for cell in task.cells]
            scores = [score for _, task in rows for score in worst_scores(task).values()]
            axes.set_ylim(min(0.0, *scores) - 0.05, 1.05)
            axes.set_title(title, **TITLE)
            axes.set_xlabel("tokens of context")
            axes.set_ylabel("score, worst depth")
            log_tokens(axes, min(asked) / 1.2, max(asked) * 1.2, narrow=True)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        order = sorted(lines)
        names = [ending(results[k].name, 48 if narrow else 90) for k in order]
        figure.legend([lines[k] for k in order], names, frameon=False, fontsize=8, loc="outside lower left")
    return figure


def _line(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": "solid" if number < len(_COLOURS) else DASHED,
        "markersize": 4.0,
        "linewidth": 1.4,
    }
