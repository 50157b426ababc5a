"""How are runs of images drawn side by side: their scores, and what they draw?"""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure

from diptych.evaluation.image_comparison import ImageComparisonResult
from diptych.report.comparison_drawings import COLOURS
from diptych.report.images import grid
from diptych.report.plots import PALETTE, style

HELD_OUT: Final = "held-out images"
"""Stands for a run where real images are shown."""


def bits_marks(result: ImageComparisonResult, *, narrow: bool = False) -> Figure:
    """Held-out bits per dimension of every run: a thick bar of the estimate's standard error for these images, a thin
    one of that of the mean over images; "≤" marks what bounds the bits of the levels."""
    rows = list(enumerate(zip(result.scores, result.trained, strict=True)))[::-1]
    with style():
        figure = Figure(figsize=(3.9 if narrow else 7.4, 0.9 + (0.62 if narrow else 0.46) * len(rows)))
        axes = figure.add_subplot()
        for place, (number, (score, of)) in enumerate(rows):
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 0, "zorder": 3}
            at = ([score.bits_per_dimension], [place])
            axes.errorbar(*at, xerr=score.standard_error, elinewidth=1.0, capsize=3, marker="o", **look)
            axes.errorbar(*at, xerr=score.estimate_error, elinewidth=4.5, **look)
            sign = "" if score.kind == "exact" else "≤ "
            text = f"{sign}{score.bits_per_dimension:.3f}"
            axes.annotate(text, (at[0][0], place), (0, 7), textcoords="offset points", ha="center")
            if narrow:
                where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
                axes.annotate(f"{of.run}: {of.paradigm}", (0, place), (0, 18), **where)
        names = ["" if narrow else f"{of.run}: {of.paradigm}" for _, (_, of) in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_ylim(-0.5, len(rows) - 0.3)
        axes.margins(x=0.15)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("held-out bits per dimension")
    return figure


def grids(result: ImageComparisonResult) -> Figure:
    """What every run drew, beside held-out images."""
    panels = [(HELD_OUT, result.heldout.unpacked())]
    for of, drawn in zip(result.trained, result.drawn, strict=True):
        panels.append((f"{of.run}: {of.paradigm}", drawn.images.unpacked()))
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    with style():
        figure = Figure(figsize=(2.6 * columns, 2.9 * rows), layout="constrained")
        for axes in figure.subplots(rows, columns, squeeze=False).flat:
            axes.set_axis_off()
        for axes, (name, images) in zip(figure.axes, panels, strict=False):
            axes.imshow(grid(images), interpolation="none")
            axes.set_title(name, fontsize=8)
    return figure
