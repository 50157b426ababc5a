"""How does a text grow, token by token, and between what did the model choose?

The review's figure 1: at every step the probabilities of the likeliest next tokens, the one chosen, and the text so far.
`next_token_steps` takes them from a model, `drawing` draws them.
"""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diptych.report.plots import PALETTE, style
from diptych.report.results import NextTokenStep, ReviewResults
from diptych.report.words import percent, readable, visible

_COLUMNS = 3
_LINE = 34
"""Characters of a line of the growing text that fit above a panel."""


def drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """One panel a step: the text so far, and a bar a candidate with the chosen one in colour."""
    steps = results.next_token
    columns = 1 if narrow else min(_COLUMNS, len(steps))
    rows = math.ceil(len(steps) / columns)
    height = 0.95 + 0.19 * max(len(step.candidates) for step in steps)
    with style():
        figure = Figure(figsize=(3.3 * columns, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for number, (panel, step) in enumerate(zip(panels, steps, strict=False), start=1):
            _draw_step(panel, step, number)
        for panel in panels[len(steps) :]:
            panel.set_axis_off()
    return figure


def _draw_step(axes: Axes, step: NextTokenStep, number: int) -> None:
    shown = step.candidates[::-1]
    colours = [PALETTE["model" if candidate is step.candidates[step.chosen] else "other"] for candidate in shown]
    axes.barh(range(len(shown)), [candidate.probability for candidate in shown], height=0.6, color=colours)
    for place, candidate in enumerate(shown):
        chosen = candidate is step.candidates[step.chosen]
        axes.annotate(
            percent(candidate.probability),
            (candidate.probability, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold" if chosen else "normal",
            color=PALETTE["model" if chosen else "muted"],
        )
    axes.set_yticks(
        range(len(shown)), [_cut(visible(c.text), 14).rjust(14) for c in shown], family="DejaVu Sans Mono", fontsize=8
    )
    axes.tick_params(length=0, labelcolor=PALETTE["ink"])
    axes.set_xlim(0, 1.15)
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    text = _growing(step.context)
    axes.set_title(f"{number}  {text}", loc="left", family="DejaVu Sans Mono", fontsize=7.5, color=PALETTE["muted"])


def _growing(context: str) -> str:
    """The last two lines of the text so far, each cut to the width of a panel."""
    lines = [line for line in readable(context).expandtabs(4).split("\n")[-2:]]
    cut = [line if len(line) <= _LINE else "…" + line[1 - _LINE :] for line in lines]
    return "\n   ".join(["", *cut][-2:] if len(cut) < 2 else cut)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
