"""What have the drawings of an effective context length in common: their widths, an axis of tokens, a level across?"""

from __future__ import annotations

import math
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from diptych.report.plots import PALETTE

WIDE, NARROW = 7.4, 3.9
"""Inches, of a wide page and of a phone."""

DASHED: Final = (0, (4, 3))
SMALL: Final[dict[str, Any]] = {"fontsize": 8, "color": PALETTE["muted"]}
TITLE: Final[dict[str, Any]] = {"loc": "left", "fontsize": 9, "color": PALETTE["ink"]}


def level(axes: Axes, value: float, label: str) -> None:
    """A dashed line across, its label outside on the right, where no point is."""
    axes.axhline(value, color=PALETTE["muted"], linewidth=1, linestyle=DASHED, zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(label, (1, value), (4, 0), ha="left", va="center", **place, **SMALL)


def log_tokens(axes: Axes, low: float, high: float, narrow: bool) -> None:
    """A logarithmic axis of tokens whose few ticks are powers of two."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    powers = [2**k for k in range(64) if low <= 2**k <= high] or [round(math.sqrt(low * high))]
    step = max(1, -(-len(powers) // (5 if narrow else 9)))
    axes.xaxis.set_major_locator(FixedLocator(powers[::-1][::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="both")
    axes.set_axisbelow(True)
