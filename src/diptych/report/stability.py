"""How is a sweep of stability drawn? Where training diverges, and the gradients that it begins with.

A map for every normalization and place of it: the depth against the learning rate, darker where the training loss is
lower, a cross where training diverged and a ring where nothing was learnt from context. Below, the gradients of the
deepest network block by block, and of the last block over the depth (Xiong et al. 2020, figure 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

from diptych.evaluation.stability import Column, StabilityResult
from diptych.report.plots import PALETTE, style
from diptych.report.results import ReviewResults

_STYLES: dict[str, dict[str, Any]] = {
    "layer, post": {"color": PALETTE["second"], "marker": "o"},
    "rms, post": {"color": PALETTE["second"], "marker": "s", "linestyle": (0, (3, 2)), "markerfacecolor": "white"},
    "layer, pre": {"color": PALETTE["model"], "marker": "o"},
    "rms, pre": {"color": PALETTE["model"], "marker": "s", "linestyle": (0, (3, 2)), "markerfacecolor": "white"},
    "none": {"color": PALETTE["ink"], "marker": "^", "linestyle": (0, (1, 1.5))},
}
"""Place by colour, normalization by marker and line."""


def drawing(result: StabilityResult, *, narrow: bool = False) -> Figure:
    """The maps of all columns, and the two panels of gradients."""
    columns = result.config.columns
    across = 2 if narrow else max(2, min(5, len(columns)))
    down = -(-len(columns) // across)
    row = 0.55 + 0.3 * len(result.config.depths)
    with style():
        width = 3.9 if narrow else 7.4
        below = 4.6 if narrow else 2.5
        figure = Figure(figsize=(width, row * down + 0.3 + below), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(row * down + 0.3, below))
        above, under = halves
        maps = above.subplots(down, across, squeeze=False).flatten()
        for place, axes in enumerate(maps):
            if place < len(columns):
                _draw_map(axes, result, columns[place], left=place % across == 0)
            else:
                axes.set_axis_off()
        above.supxlabel(_key(result, narrow), fontsize=8, color=PALETTE["muted"])
        panels = under.subplots(2, 1) if narrow else under.subplots(1, 2)
        _draw_by_block(panels[0], result)
        _draw_by_depth(panels[1], result)
    return figure


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The sweep of a review."""
    assert results.stability is not None
    return drawing(results.stability, narrow=narrow)


def _key(result: StabilityResult, narrow: bool) -> str:
    lines = [
        "Depth against learning rate; number and colour: training loss in nats a byte.",
        f"×: diverged, no finite loss or one above a uniform guess ({result.uniform:.2f}).",
        f"○: no better than the frequencies of the bytes ({result.unigram:.2f}).",
    ]
    if narrow:
        lines = [
            "Depth against learning rate;",
            "number and colour: training loss, nats a byte.",
            "×: diverged, no finite loss or one",
            f"above a uniform guess ({result.uniform:.2f}).",
            f"○: no better than frequencies ({result.unigram:.2f}).",
        ]
    return "\n".join(lines)


def _draw_map(axes: Axes, result: StabilityResult, column: Column, *, left: bool) -> None:
    config = result.config
    learnt = [r.final_loss for r in result.runs if r.outcome == "learnt" and r.final_loss is not None]
    shade = Normalize(min(learnt, default=0.0), result.unigram)
    for y, depth in enumerate(config.depths):
        for x, rate in enumerate(config.learning_rates):
            cell = result.cell(column, depth, rate)
            if cell is None:
                continue
            plain = cell.outcome != "learnt" or cell.final_loss is None
            strength = 0.0 if plain else 1.0 - 0.75 * float(shade(cell.final_loss or 0.0))
            place = (x - 0.5, y - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, facecolor=PALETTE["model"], alpha=strength, linewidth=0))
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=PALETTE["line"], linewidth=0.6))
            sign = {"diverged": "×", "frequencies": "○", "learnt": ""}[cell.outcome]
            text = sign or f"{cell.final_loss:.1f}"
            dark = strength > 0.6
            ink = PALETTE["panel"] if dark else PALETTE["second" if sign == "×" else "ink"]
            axes.text(x, y, text, ha="center", va="center", fontsize=11 if sign else 6.5, color=ink)
    axes.set_xlim(-0.5, len(config.learning_rates) - 0.5)
    axes.set_ylim(-0.5, len(config.depths) - 0.5)
    rates = config.learning_rates
    every = 1 if len(rates) < 4 else 2
    axes.set_xticks(range(len(rates)), [_rate(r) if k % every == 0 else "" for k, r in enumerate(rates)], fontsize=7)
    axes.set_yticks(range(len(config.depths)), [str(d) if left else "" for d in config.depths])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(_title(column), fontsize=9, color=PALETTE["ink"], loc="left")


def _title(column: Column) -> str:
    return "no normalization" if column.placement is None else f"{column.norm}, {column.placement}"


def _rate(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-").lstrip("0") or "0"


def _draw_by_block(axes: Axes, result: StabilityResult) -> None:
    depth = result.config.depths[-1]
    # Without a normalization they are larger by orders of magnitude; the panel over the depth shows that.
    normalized = [c for c in result.config.columns if c.norm != "none"]
    for column in normalized or result.config.columns:
        _line(axes, column, list(range(1, depth + 1)), result.gradient(column, depth))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.set_xlabel(f"block, of {depth}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted({1, *range(max(1, depth // 4), depth + 1, max(1, depth // 4))}))
    axes.set_title("gradient before the first step, by block", fontsize=9, color=PALETTE["ink"], loc="left")


def _draw_by_depth(axes: Axes, result: StabilityResult) -> None:
    depths = list(result.config.depths)
    for column in result.config.columns:
        _line(axes, column, depths, [result.gradient(column, depth)[-1] for depth in depths])
    _log(axes)
    if len(depths) > 1:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(depths, list(map(str, depths)))
    axes.set_xlabel("depth")
    axes.set_title("of the last block, by depth", fontsize=9, color=PALETTE["ink"], loc="left")
    axes.legend(frameon=False, fontsize=8, handlelength=2.6)


def _line(axes: Axes, column: Column, x: Sequence[int], y: Sequence[float]) -> None:
    axes.plot(x, y, label=_title(column), linewidth=1.4, markersize=3.6, **_STYLES[column.name])


def _log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}"))
    axes.grid(axis="y")
    axes.tick_params(length=0)
