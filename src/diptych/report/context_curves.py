"""How are the two further readings of a model's context drawn: accuracy by distance, and loss by context?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diptych.evaluation.context.result import ContextResult, Distance, DistanceBin, Positions, TaskResult
from diptych.evaluation.intervals import wilson
from diptych.report.context_axes import NARROW, SMALL, TITLE, WIDE, level, log_tokens
from diptych.report.context_words import distance_words, saturation_words, task_name
from diptych.report.plots import PALETTE, style
from diptych.report.words import ending


def distance_curve(result: ContextResult, task: TaskResult, *, narrow: bool = False) -> Figure:
    """Accuracy against the distance of the needle, with Wilson intervals; above it how often training showed each
    distance, where that is known. `task` has at least one bin."""
    positions = result.positions
    heights = [0.7, 2.9] if positions is not None else [2.9]
    with style():
        size = (NARROW if narrow else WIDE, sum(heights) + 0.75)
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)
        axes = grid[-1, 0]
        _draw_accuracy(axes, task.distances)
        chance = 1 / task.n_candidates
        level(axes, chance + result.tau * (1 - chance), f"τ {result.tau:g}")
        level(axes, chance, "chance")
        _draw_distance(axes, task.distance)
        axes.set_ylim(-0.02, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("tokens from the needle to the end of the question")
        axes.set_ylabel("right answers")
        axes.set_title(f"effective distance: {_broken(distance_words(task.distance), narrow)}", **TITLE)
        first, last = task.distances[0].first, task.distances[-1].last
        if positions is not None:
            last = max(last, *positions.distances)
            _draw_positions(grid[0, 0], positions)
        log_tokens(axes, first / 1.15, last * 1.15, narrow)
        figure.suptitle(
            ending(f"{result.name}: {task_name(task)}", 52 if narrow else 100), x=0.01, ha="left", fontsize=9
        )
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
    axes.set_title("how often training showed a distance, against distance 1", loc="left", **SMALL)


def _broken(text: str, narrow: bool) -> str:
    return text.replace(" (", "\n(") if narrow else text


def loss_curves(result: ContextResult, *, narrow: bool = False) -> Figure:
    """Mean loss by context, and what each doubling of it saves; `result` has a saturation."""
    saturation = result.saturation
    assert saturation is not None
    with style():
        figure = Figure(figsize=(NARROW, 5.4) if narrow else (WIDE, 3.2), layout="constrained")
        panels: Any = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
        losses, gains = panels
        losses.plot(saturation.lengths, saturation.losses, color=PALETTE["model"], linewidth=1.4, marker="o", ms=4)
        losses.set_title("mean loss, nats a token", **TITLE)
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
        level(gains, saturation.epsilon, f"ε {saturation.epsilon:g}")
        gains.axhline(0, color=PALETTE["line"], linewidth=1, zorder=0)
        gains.set_title("saved by the last doubling, nats a token", **TITLE)
        for axes in panels:
            if saturation.saturation is not None:
                axes.axvline(saturation.saturation, color=PALETTE["second"], linewidth=4, alpha=0.35, zorder=1)
            axes.set_xlabel("tokens of context")
            log_tokens(axes, min(saturation.lengths) / 1.2, max(saturation.lengths) * 1.2, narrow=True)
        title = f"{ending(result.name, 52)}\nloss saturation: {saturation_words(saturation)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    return figure
