"""How are runs of both paradigms drawn side by side: their scores, their curves, and what they write?"""

from __future__ import annotations

from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diptych.evaluation.compare_curves import AXES, Axis
from diptych.evaluation.compare_generation import HELD_OUT
from diptych.evaluation.comparison import ComparisonResult
from diptych.report.plots import PALETTE, style

COLOURS: Final = (PALETTE["model"], PALETTE["second"], PALETTE["ink"], PALETTE["other"])
"""Of the runs, in turn."""

_MARKERS: Final = "osD^vPX*"
_LABELS: Final[dict[Axis, str]] = {"flops": "training FLOPs", "epochs": "passes through the training text"}


def bits_bars(result: ComparisonResult, *, narrow: bool = False) -> Figure:
    """Held-out bits per byte of every run; a bound is marked so, and has its standard error where that can be seen."""
    rows = [(score, of) for score, of in zip(result.heldout, result.trained, strict=True)][::-1]
    with style():
        figure = Figure(figsize=(3.9 if narrow else 7.4, 0.5 + (0.5 if narrow else 0.36) * len(rows)))
        axes = figure.add_subplot()
        for place, (score, of) in enumerate(rows):
            colour = COLOURS[list(result.trained).index(of) % len(COLOURS)]
            error = score.bits_per_byte_error or None
            axes.barh(place, score.bits_per_byte, xerr=error, height=0.28 if narrow else 0.6, color=colour)
            sign = "" if score.kind == "exact" else "≤ "
            place_of_text: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
            axes.annotate(f"{sign}{score.bits_per_byte:.3f}", (score.bits_per_byte, place), (6, 0), **place_of_text)
            if narrow:
                axes.annotate(
                    f"{of.run}: {of.paradigm}", (0, place + 0.19), (0, 2), textcoords="offset points", va="bottom"
                )
        names = ["" if narrow else f"{of.run}: {of.paradigm}" for _, of in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
        axes.set_xlim(0, 1.15 * max(score.bits_per_byte for score, _ in rows))
        axes.xaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def curves(result: ComparisonResult, *, narrow: bool = False) -> Figure:
    """Held-out bits per byte against training compute and against epochs, with the standard deviation of a bound's
    estimates; where one overtakes, a line."""
    with style():
        figure, panels = _panels(2, narrow)
        for axes, axis in zip(panels, AXES, strict=True):
            for number, (curve, of) in enumerate(zip(result.curves, result.trained, strict=True)):
                points = curve.along(axis)
                label = f"{of.run}: {of.paradigm}"
                places, bits = [x for x, _ in points], [y for _, y in points]
                axes.plot(places, bits, label=label, **_line(number))
                low, high = [y - curve.noise for y in bits], [y + curve.noise for y in bits]
                axes.fill_between(places, low, high, color=_line(number)["color"], alpha=0.12, linewidth=0)
            for found in result.overtakings:
                if found.axis == axis and found.at is not None:
                    axes.axvline(found.at, color=PALETTE["muted"], linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            _plain(axes)
            axes.set_xlabel(_LABELS[axis])
            axes.set_ylabel("held-out bits per byte")
        _legend(panels[-1])
    return figure


def speed_and_quality(result: ComparisonResult, *, narrow: bool = False) -> Figure:
    """Bits per byte under the judge against speed, and against the entropy of the texts; a number at each mark says how
    many tokens a step revealed."""
    real = next(score for score in result.generation if score.run == HELD_OUT)
    with style():
        figure, panels = _panels(2, narrow)
        left, right = panels
        for number, of in enumerate(result.trained):
            scores = [score for score in result.generation if score.run == of.run]
            bits, errors = [s.bits_per_byte.value for s in scores], [s.bits_per_byte.error for s in scores]
            look = {**_line(number), "label": f"{of.run}: {of.paradigm}", "yerr": errors, "elinewidth": 0.8}
            speeds, entropies = [s.tokens_per_second or 0.0 for s in scores], [s.entropy.value for s in scores]
            # Over entropy the numbers of tokens a step follow no line.
            for axes, places, line in ((left, speeds, look), (right, entropies, {**look, "linewidth": 0})):
                axes.errorbar(places, bits, **line)
                for score, x, y in zip(scores, places, bits, strict=True):
                    axes.annotate(f"{score.tokens_per_step}", (x, y), (4, 4), textcoords="offset points", fontsize=7)
        left.axhline(real.bits_per_byte.value, color=PALETTE["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
        right.plot(
            [real.entropy.value], [real.bits_per_byte.value], "*", color=PALETTE["muted"], markersize=9, label=HELD_OUT
        )
        left.set_xscale("log")
        left.set_xlabel("tokens a second")
        right.set_xlabel("entropy of a text's tokens, nats")
        for axes in panels:
            axes.set_ylabel("bits per byte under the judge")
            _plain(axes)
        _legend(right)
    return figure


def _panels(count: int, narrow: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.9, 3.3 * count) if narrow else (3.7 * count, 3.6), layout="constrained")
    panels: Any = figure.subplots(count, 1) if narrow else figure.subplots(1, count)
    return figure, list(panels)


def _line(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": "solid" if number < len(COLOURS) else (0, (4, 2)),
        "markersize": 4.0,
        "linewidth": 1.3,
    }


def _plain(axes: Axes) -> None:
    """Few ticks, written as plain numbers where the axis is logarithmic."""
    for axis, is_log in ((axes.xaxis, axes.get_xscale() == "log"), (axes.yaxis, axes.get_yscale() == "log")):
        if not is_log:
            continue
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high < 100 * low else (1,), numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}" if value >= 1e6 else f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="both")
    axes.set_axisbelow(True)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.1, -0.18))
