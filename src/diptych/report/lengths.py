"""How are the lengths of documents, and the distances between their tokens, drawn? Review table 5, left.

A row a corpus: its histogram on a logarithmic scale, and f(i) beside what it would be if every document filled the
training context. Below, the mean lengths that others have published, on the same scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diptych.data.lengths import PUBLISHED, CorpusLengths, LengthDistribution, RelativePositions
from diptych.report.plots import PALETTE, style
from diptych.report.results import ReviewResults
from diptych.report.words import ending, number, percent, size

_ROW, _LINE, _REST = 1.25, 0.2, 0.75
"""Inches of a corpus's row, of a published value's line, and of the axis with its label."""

_KEY = (
    "f(i): pairs of tokens of one document\nthat are i apart, within a training context\n"
    "of L tokens; dashed: if every document\nhad L tokens or more"
)

_OFFSET: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The drawing of a review's corpora."""
    return drawing(results.lengths, narrow=narrow)


def drawing(corpora: Sequence[CorpusLengths], *, narrow: bool = False) -> Figure:
    """Histograms of the lengths in bytes above the published means, and f(i) of those that were tokenized."""
    beside = any(corpus.positions is not None for corpus in corpora)
    rows = len(corpora)
    published = _REST + _LINE * len(PUBLISHED)
    with style():
        if narrow:
            heights = [_ROW] * rows + [published] + [_ROW + 0.35] * (rows if beside else 0)
            figure = Figure(figsize=(3.9, sum(heights)), layout="constrained")
            panels = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
            left, right = panels[: rows + 1], panels[rows + 1 :]
        else:
            heights = [_ROW] * rows + [published]
            figure = Figure(figsize=(7.4, sum(heights)), layout="constrained")
            columns = 2 if beside else 1
            ratios = [1.35, 1] if beside else None
            grid = figure.subplots(rows + 1, columns, height_ratios=heights, width_ratios=ratios, squeeze=False)
            left, right = list(grid[:, 0]), list(grid[:, 1]) if beside else []
        _draw_lengths(left, corpora)
        _draw_positions(right, corpora)
    return figure


def _draw_lengths(panels: Sequence[Axes], corpora: Sequence[CorpusLengths]) -> None:
    low = min(_used(corpus.in_bytes)[0] for corpus in corpora)
    high = max(*(_used(corpus.in_bytes)[1] for corpus in corpora), *(1.2 * row.mean_bytes for row in PUBLISHED))
    for axes, corpus in zip(panels, corpora, strict=False):
        _draw_histogram(axes, corpus)
        axes.tick_params(axis="x", labelbottom=False)
    _draw_published(panels[-1])
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(max(1, low), high)
        axes.xaxis.set_major_locator(LogLocator(base=10, numticks=20))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
        axes.tick_params(length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("length of a document")


def _used(lengths: LengthDistribution) -> tuple[int, int]:
    """The outer edges of the bins that hold documents."""
    used = [k for k, count in enumerate(lengths.counts) if count]
    return lengths.edges[used[0]], lengths.edges[used[-1] + 1]


def _draw_histogram(axes: Axes, corpus: CorpusLengths) -> None:
    """Documents a factor of two in length, as a share of the fullest bin, so that bins of any width compare."""
    lengths = corpus.in_bytes
    edges = lengths.edges[1:]  # no document has no bytes
    heights = [
        count / math.log2(end / start)
        for count, start, end in zip(lengths.counts[1:], edges[:-1], edges[1:], strict=True)
    ]
    axes.stairs([height / max(heights) for height in heights], edges, fill=True, color=PALETTE["model"], alpha=0.85)
    axes.axvline(lengths.mean, ymax=0.94, color=PALETTE["second"], linewidth=1.3)
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "va": "top", "color": PALETTE["second"]}
    axes.annotate(f"mean {size(lengths.mean)}", (lengths.mean, 0.97), (4, 0), **place, **_OFFSET)
    axes.set_ylim(0, 1.3)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    partial = "" if corpus.complete else " (partial)"
    axes.set_title(f"{ending(corpus.name, 26)}{partial}", loc="left", fontsize=9, color=PALETTE["ink"])
    about = f"{number(corpus.documents)} documents, median {size(lengths.median)}"
    axes.set_title(about, loc="right", fontsize=8, color=PALETTE["muted"])


def _draw_published(axes: Axes) -> None:
    places = range(len(PUBLISHED))
    for place, row in zip(places, PUBLISHED, strict=True):
        axes.plot(row.mean_bytes, place, marker="D", markersize=4.5, color=PALETTE["second"], clip_on=False)
        near_end = place > len(PUBLISHED) / 2
        side: dict[str, Any] = {"ha": "right" if near_end else "left", "va": "center"}
        label = f"{row.corpus}  {size(row.mean_bytes)}"
        axes.annotate(label, (row.mean_bytes, place), (-7 if near_end else 7, 0), **side, **_OFFSET)
    axes.set_ylim(len(PUBLISHED) - 0.4, -0.6)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    sources = "; ".join(dict.fromkeys(row.source for row in PUBLISHED))
    axes.set_title(f"published means ({sources})", loc="left", fontsize=8, color=PALETTE["muted"])


def _draw_positions(panels: Sequence[Axes], corpora: Sequence[CorpusLengths]) -> None:
    tokenized = [corpus for corpus in corpora if corpus.positions is not None]
    for axes, corpus in zip(panels, tokenized, strict=False):
        assert corpus.positions is not None
        _draw_frequency(axes, corpus.positions)
    for axes in panels[len(corpora) :]:
        axes.set_axis_off()
        axes.text(
            0, 0.98, _KEY, va="top", fontsize=8, color=PALETTE["muted"], linespacing=1.6, transform=axes.transAxes
        )


def _draw_frequency(axes: Axes, positions: RelativePositions) -> None:
    """f(i)/f(0) over the distance i, above it the share of near pairs."""
    context, frequency = positions.context, positions.frequency
    step = max(1, context // 256)
    at = [*range(0, context, step), context]
    shares = [frequency[i] / frequency[0] for i in at[:-1]] + [0.0]
    axes.fill_between(at, shares, color=PALETTE["model"], alpha=0.18, linewidth=0)
    axes.plot(at, shares, color=PALETTE["model"], linewidth=1.6)
    axes.plot([0, context], [1, 0], color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
    half = positions.half_distance
    axes.axvline(half, ymax=0.9, color=PALETTE["second"], linewidth=1.3)
    axes.annotate(f"half of all pairs: under {number(half)}", (half, 1.12), (4, 0), color=PALETTE["second"], **_OFFSET)
    axes.set_ylim(0, 1.4)
    axes.set_xlim(0, context)
    axes.set_xticks([k * context / 4 for k in range(5)], labels=["0", "", "L/2", "", f"L = {number(context)}"])
    axes.xaxis.get_ticklabels()[-1].set_horizontalalignment("right")
    axes.set_yticks([0, 0.5, 1], labels=["0", "", "1"])
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    title = f"f(i)/f(0): {percent(positions.near_share)} of pairs under L/2"
    axes.set_title(title, loc="left", fontsize=8, color=PALETTE["muted"])
