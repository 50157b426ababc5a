"""How is the growth of attention's cost drawn? Time and peak memory against the length, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diptych.evaluation.attention_cost import CostResult
from diptych.evaluation.power_law import PowerLaw
from diptych.report.plots import PALETTE, style
from diptych.report.results import ReviewResults
from diptych.report.words import size

_COLOURS = (PALETTE["ink"], PALETTE["model"], PALETTE["second"], PALETTE["muted"])
_MARKERS = "osD^vPX*"
_LINES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)))


def cost_figure(result: CostResult, *, start: int = 0, narrow: bool = False) -> Figure:
    """Two panels, a line a form; the legend has the exponents fitted from length `start` on, with 95 % intervals."""
    forms = [form for form in result.config.forms if result.timed(form)]
    with_memory = any(cell.n_bytes for form in forms for cell in result.timed(form))
    count = 1 + with_memory
    legend = 0.55 + 0.19 * len(forms)
    with style():
        figure = Figure(
            figsize=(3.9, (2.7 + legend) * count) if narrow else (3.7 * count, 3.0 + legend), layout="constrained"
        )
        panels = figure.subplots(count, 1) if narrow else figure.subplots(1, count)
        left = panels if count == 1 else panels[0]
        times = [[(cell.length, cell.median) for cell in result.timed(form)] for form in forms]
        laws = [result.time_law(form, start) for form in forms]
        what = "forward and backward" if result.config.size.train else "forward"
        _draw(left, forms, times, laws, f"time of a layer, {what}")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
        if with_memory:
            memory: list[list[tuple[int, float]]] = [
                [(cell.length, cell.n_bytes) for cell in result.timed(form) if cell.n_bytes] for form in forms
            ]
            laws = [result.memory_law(form, start) for form in forms]
            _draw(panels[1], forms, memory, laws, "peak memory, weights and input apart")
            panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    return figure


def exponents_from(result: CostResult) -> int:
    """The length from which on the exponents are fitted: with three lengths or more, without the shortest, where what a
    call costs weighs most."""
    lengths = result.config.lengths
    return lengths[1] if len(lengths) > 2 else lengths[0]


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The measurement of a review."""
    assert results.attention_cost is not None
    return cost_figure(results.attention_cost, start=exponents_from(results.attention_cost), narrow=narrow)


def seconds(value: float) -> str:
    """0.0123 -> "12.3 ms"."""
    for unit, word in ((1.0, "s"), (1e-3, "ms")):
        if value >= unit:
            return f"{value / unit:.3g} {word}"
    return f"{value * 1e6:.3g} µs"


def _draw(
    axes: Axes,
    forms: Sequence[str],
    curves: Sequence[Sequence[tuple[int, float]]],
    laws: Sequence[PowerLaw | None],
    title: str,
) -> None:
    for number, (form, curve, law) in enumerate(zip(forms, curves, laws, strict=True)):
        label = form if law is None else f"{form}:  n^({law.text})"
        axes.plot(
            [length for length, _ in curve],
            [cost for _, cost in curve],
            label=label,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_LINES[number // len(_COLOURS) % len(_LINES)],
            markersize=3.6,
            linewidth=1.3,
        )
    lengths = sorted({length for curve in curves for length, _ in curve})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    every = -(-len(lengths) // 6)
    shown = lengths[::-1][::every][::-1]
    axes.set_xticks(shown, [f"{length:,}" for length in shown])
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low < 50 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    axes.set_xlabel("length n")
    axes.set_title(title, loc="left", fontsize=9, color=PALETTE["ink"])
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.05, -0.2), handlelength=2.4)
