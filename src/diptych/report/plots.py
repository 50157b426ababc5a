"""How are the measurements drawn?

Each function returns a matplotlib `Figure`, made without pyplot's global state, in the colours of the page's light
scheme. `svg` turns one into markup for the page, its colours replaced by the page's variables, so that the same drawing
serves the light and the dark scheme and takes the page's typeface.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from diptych.core.files import replacing
from diptych.report.results import CurvePoint, HeldoutPoint, ReviewResults
from diptych.report.words import duration

PALETTE = {
    "ink": "#1b1f2a",
    "muted": "#626a79",
    "line": "#e1e4ea",
    "panel": "#fefefe",
    "model": "#2b59c3",
    "second": "#c2521a",
    "other": "#a4acba",
    "token-0": "#cfe0ff",
    "token-1": "#ffe2c7",
    "token-2": "#d5f0d8",
    "token-3": "#f6d5ee",
    "token-4": "#fff3b8",
    "token-5": "#d8ecf3",
}
"""Name of a page variable -> its value in the light scheme (`templates/style.css` has both schemes)."""

OWN_NAME = {"exact": "this transformer", "bound": "this transformer (at most)"}
"""Its row among the yardsticks, by the kind of its likelihood."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": PALETTE["line"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": PALETTE["ink"],
    "text.parse_math": False,
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "grid.color": PALETTE["line"],
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "diptych",
    "axes.unicode_minus": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, silent about signs that matplotlib's font lacks: the page's own has most of them."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def training_curve(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Loss against tokens, in bits per byte where all points have them: training, held-out, and the best compressor.

    Every step is drawn faintly under its running mean.
    """
    points, heldout = results.training, results.heldout
    in_bits = None not in [p.bits_per_byte for p in points] + [p.bits_per_byte for p in heldout]
    tokens_of = {p.step: p.tokens for p in points}
    per_step = points[-1].tokens / points[-1].step
    with style():
        figure, axes = _canvas(narrow, height=3.2)
        millions = [p.tokens / 1e6 for p in points]
        losses = _losses(points, in_bits)
        axes.plot(millions, losses, color=PALETTE["model"], linewidth=0.6, alpha=0.3)
        axes.plot(millions, running_mean(losses), color=PALETTE["model"], linewidth=1.4, label="training")
        if heldout:
            millions = [tokens_of.get(p.step, p.step * per_step) / 1e6 for p in heldout]
            dots: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 0, "clip_on": False}
            axes.plot(millions, _losses(heldout, in_bits), color=PALETTE["second"], label="held out", **dots)
        if in_bits:
            _draw_best_compressor(axes, results)
        _log_scale(axes)
        axes.set_xlabel("million tokens")
        axes.set_ylabel("bits per byte" if in_bits else "nats a token")
        axes.set_xlim(left=0)
        axes.legend(frameon=False, loc="upper right")
    return figure


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of about a fortieth of all values around each one: single steps are too noisy to read a trend from."""
    half = len(values) // 80
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _losses(points: Sequence[CurvePoint | HeldoutPoint], in_bits: bool) -> list[float]:
    return [p.bits_per_byte if in_bits and p.bits_per_byte is not None else p.loss for p in points]


def _draw_best_compressor(axes: Axes, results: ReviewResults) -> None:
    """A line at the best of the compressors that know nothing before, with its name; nothing if there is none."""
    unprimed = [row for row in results.yardsticks if not row.primed]
    if not unprimed:
        return
    best = min(unprimed, key=lambda row: row.bits_per_byte)
    axes.axhline(best.bits_per_byte, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(best.name, (1, best.bits_per_byte), (0, 3), ha="right", color=PALETTE["muted"], **place)


def yardstick_bars(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Held-out bits per byte of the model and of every yardstick, best on top."""
    rows = [(row.name, row.bits_per_byte, False) for row in results.yardsticks]
    if results.score is not None:
        rows.append((OWN_NAME[results.score.kind], results.score.bits_per_byte, True))
    rows.sort(key=lambda row: row[1], reverse=True)
    with style():
        figure, axes = _canvas(narrow, height=0.5 + (0.46 if narrow else 0.34) * len(rows))
        for place, (name, value, own) in enumerate(rows):
            axes.barh(place, value, height=0.28 if narrow else 0.62, color=PALETTE["model" if own else "other"])
            axes.annotate(
                f"{value:.3f}",
                (value, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                color=PALETTE["model" if own else "ink"],
                fontweight="bold" if own else "normal",
            )
            if narrow:
                axes.annotate(name, (0, place + 0.19), (0, 2), textcoords="offset points", va="bottom")
        axes.set_yticks(range(len(rows)), ["" if narrow else name for name, _, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
        axes.set_xlim(0, 1.12 * max(value for _, value, _ in rows))
        axes.xaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def stage_bars(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Seconds of every stage, in the order in which they ran."""
    stages = results.stages[::-1]
    longest = max(stage.seconds for stage in stages)
    with style():
        figure, axes = _canvas(narrow, height=0.3 + 0.27 * len(stages))
        axes.barh(range(len(stages)), [stage.seconds for stage in stages], height=0.55, color=PALETTE["other"])
        for place, stage in enumerate(stages):
            axes.annotate(
                duration(stage.seconds), (stage.seconds, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(stages)), [stage.name for stage in stages])
        axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
        axes.set_xlim(0, longest * (1.4 if narrow else 1.15))
        axes.xaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as inline SVG: colours as page variables, ids prefixed by `name`, nothing that would be loaded."""
    stream = io.StringIO()
    with style():
        figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.02)
    markup = stream.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", markup, flags=re.DOTALL)
    markup = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", markup)
    markup = re.sub(r' (width|height)="[^"]*"', "", markup, count=2)  # the root's own, which come first
    markup = re.sub(r'\bid="', f'id="{name}-', markup)
    markup = markup.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    for variable, colour in PALETTE.items():
        markup = markup.replace(colour, f"var(--{variable})")
    return markup.strip()


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure on white, atomically."""
    with style(), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200, facecolor="white", bbox_inches="tight", pad_inches=0.1)


def _canvas(narrow: bool, height: float) -> tuple[Figure, Axes]:
    """A figure for a wide page or for a phone, on which text of the same size is as large."""
    figure = Figure(figsize=(3.9 if narrow else 7.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis of losses whose ticks are plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low > 20:
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    else:
        ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        axes.set_yticks([tick for tick in ticks if tick > 0 and low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.tick_params(length=0)
