"""How is a study of vocabulary sizes drawn? Bits per byte against the size, and compression beside it."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diptych.evaluation.vocabulary import Study
from diptych.report.plots import PALETTE, style


def vocabulary_figure(study: Study) -> Figure:
    """Held-out bits per byte over the sizes with the optimum marked, and bytes per token.

    Every seed is a dot; bars are a standard deviation. Raises ValueError where no run is scored yet.
    """
    rows = study.rows
    if not rows:
        raise ValueError("no run of the study is scored yet; let it go on first")
    with style():
        figure = Figure(figsize=(7.4, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        sizes = [row.vocabulary.size for row in rows]
        _draw_bits(left, study)
        right.plot(sizes, [row.vocabulary.bytes_per_token for row in rows], marker="o", **_line())
        right.set_ylim(bottom=0)
        right.set_title("bytes per token, held out", fontsize=9, color=PALETTE["ink"], loc="left")
        _size_axis(left, sizes, 7)
        _size_axis(right, sizes, 3)
    return figure


def _line() -> dict[str, Any]:
    return {"color": PALETTE["model"], "linewidth": 1.6, "markersize": 4.5, "clip_on": False}


def _draw_bits(axes: Axes, study: Study) -> None:
    rows, best = study.rows, study.best
    sizes = [row.vocabulary.size for row in rows]
    for row in rows:
        if len(row.scores) > 1:
            dots = [row.vocabulary.size] * len(row.scores)
            axes.plot(dots, row.scores, "o", color=PALETTE["other"], markersize=3, zorder=1)
    bars = [row.deviation or 0.0 for row in rows]
    means = [row.mean for row in rows]
    axes.errorbar(sizes, means, bars if any(bars) else None, marker="o", capsize=3, elinewidth=1, **_line())
    optimum = best.vocabulary.size
    own: dict[str, Any] = {"color": PALETTE["second"], "zorder": 3}
    axes.plot([optimum], [best.mean], "o", markersize=8, clip_on=False, label="optimum", **own)
    # Below the least of all points there is room, once it is made.
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.3 * (high - low), high)
    lowest = min(best.scores) if best.deviation is None else min(*best.scores, best.mean - best.deviation)
    share = sizes.index(optimum) / max(1, len(sizes) - 1)
    axes.annotate(
        f"optimum: {optimum:,}\n{best.mean:.3f} bits per byte{_as_good(study)}",
        (optimum, lowest),
        (0, -8),
        textcoords="offset points",
        ha="left" if share < 0.25 else "right" if share > 0.75 else "center",
        va="top",
        **own,
    )
    axes.set_title("bits per byte, held out", fontsize=9, color=PALETTE["ink"], loc="left")


def _as_good(study: Study) -> str:
    """The optimum's neighbours that seeds do not tell from it, as a line of their own."""
    best = study.best.vocabulary.size
    near = [size for pair in study.ties if best in pair for size in pair if size != best]
    return f"\nwithin the spread of seeds: {', '.join(f'{size:,}' for size in near)}" if near else ""


def _size_axis(axes: Axes, sizes: list[int], labelled: int) -> None:
    """A logarithmic axis with the sizes themselves as ticks, at most `labelled` of them with numbers."""
    axes.set_xscale("log", base=2)
    every = -(-len(sizes) // labelled)
    axes.set_xticks(sizes, ["" if place % every else f"{size:,}" for place, size in enumerate(sizes)])
    axes.set_xlabel("tokens in the vocabulary")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3, color=PALETTE["line"])
