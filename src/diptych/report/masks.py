"""What does a mask look like? Review figure 2.

A row for each query, a column for each key, a cell filled where the query may attend to the key. Masks too long for
a cell a pair are drawn by blocks of positions, a cell the darker the more of its pairs are allowed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.text import Text
from torch import Tensor

from diptych.core.types import Mask
from diptych.nn.mask_text import parse_mask
from diptych.report.plots import PALETTE, style
from diptych.report.results import ReviewResults

GALLERY = (
    "full",
    "causal",
    "prefix(5)",
    "causal & documents(6, 3, 7)",
    "causal & window(4)",
    "causal & (window(4) | sinks(2))",
    "window(3, 2) | global(2)",
    "causal & (window(4) | strided(4))",
    "causal & fixed(4, 1)",
    "bigbird(1, 1, 1, 1)",
    "block_causal(4)",
    "block_diffusion(4, 8)",
)
"""The kinds of masks, at numbers that a picture of 16 positions shows."""

FINEST = 512
"""Most cells on a side of a picture."""
SEPARATE = 48
"""Up to so many cells on a side, each is drawn with its border."""
LONGEST = 2**17
"""Longest mask drawn: all of its pairs are counted."""
_PAIRS = 2**24
"""Pairs looked at in one go."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPicture:
    """A mask over so many positions: the share of allowed pairs in each cell, and in all."""

    text: str
    length: int
    shares: Float[Tensor, "c c"]
    allowed: float


def mask_picture(text: str, length: int, cells: int = FINEST) -> MaskPicture:
    """Count a mask's pairs, on at most so many cells a side.

    Raises ValueError for a text that is no mask, or a length outside 1 to `LONGEST`.
    """
    if not 1 <= length <= LONGEST:
        raise ValueError(f"a mask of {length} positions cannot be drawn; give a length from 1 to {LONGEST}")
    mask, cells = parse_mask(text), min(cells, length)
    sizes, counts = _counted(mask, length, cells)
    return MaskPicture(
        text=text, length=length, shares=counts / (sizes[:, None] * sizes), allowed=int(counts.sum()) / length**2
    )


def _counted(mask: Mask, length: int, cells: int) -> tuple[Int[Tensor, " c"], Int[Tensor, "c c"]]:
    """Positions of each row of cells, and allowed pairs of each cell."""
    edges = torch.linspace(0, length, cells + 1).round().long()
    key = torch.arange(length)
    column = torch.bucketize(key, edges[1:], right=True)
    counts = torch.zeros(cells, cells, dtype=torch.long)
    rows = max(1, _PAIRS // length)
    for start in range(0, length, rows):
        query = torch.arange(start, min(start + rows, length))
        allowed = mask.allowed(query[None, :, None], key[None, None, :])[0].expand(len(query), length)
        by_column = torch.zeros(len(query), cells, dtype=torch.long).index_add_(1, column, allowed.long())
        counts.index_add_(0, torch.bucketize(query, edges[1:], right=True), by_column)
    return edges.diff(), counts


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Figure 2 of the review: the kinds of masks side by side."""
    del results  # masks are what they are
    return masks_figure([mask_picture(text, 16) for text in GALLERY], narrow=narrow)


def percentage(share: float) -> str:
    """Three digits, so that sparse masks are told apart: 0.0314 -> "3.14 %"."""
    return f"{100 * share:.3g} %"


def masks_figure(pictures: Sequence[MaskPicture], *, narrow: bool = False) -> Figure:
    """The masks side by side, each under its text and above its share of allowed pairs."""
    across = min(len(pictures), 2 if narrow else 4)
    down = -(-len(pictures) // across)
    side = (3.9 if narrow else 7.4) / max(across, 2)
    # A non-breaking space keeps the numbers of a mask on one line.
    titles = [textwrap.fill(picture.text.replace(", ", ",\u00a0"), int(12.5 * side)) for picture in pictures]
    room = 0.5 + 0.16 * max(title.count("\n") for title in titles)
    with style():
        figure = Figure(figsize=(side * across, (side + room) * down), layout="constrained")
        for place, axes in enumerate(figure.subplots(down, across, squeeze=False).flatten()):
            if place < len(pictures):
                _draw(axes, pictures[place], titles[place], first=place == 0)
            else:
                axes.set_axis_off()
    return figure


def _draw(axes: Axes, picture: MaskPicture, title: str, *, first: bool) -> None:
    cells = len(picture.shares)
    if cells <= SEPARATE:
        _draw_cells(axes, picture.shares)
    else:
        shades = LinearSegmentedColormap.from_list("shares", ["white", PALETTE["model"]])
        # A thin line, such as a narrow window in a long text, stays visible: its cells have a small share each.
        axes.imshow(_lifted(picture.shares).numpy(), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlim(-0.5, cells - 0.5)
    axes.set_ylim(cells - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in axes.spines.values():
        edge.set(visible=True, linewidth=0.6)
    axes.set_title(title, fontsize=8.5, family="monospace", color=PALETTE["ink"])
    axes.set_xlabel(f"{percentage(picture.allowed)} of pairs", fontsize=8)
    if first:
        axes.set_ylabel(f"query ↓, key →, 1 to {picture.length:,}", fontsize=8)


def _draw_cells(axes: Axes, shares: Float[Tensor, "c c"]) -> None:
    """A patch for each run of equal cells in a row, and the lines between cells."""
    cells = len(shares)
    for y, row in enumerate(_lifted(shares).tolist()):
        x = 0
        for share, run in groupby(row):
            width = len(list(run))
            if share:
                box = Rectangle((x - 0.5, y - 0.5), width, 1, facecolor=PALETTE["model"], alpha=share, linewidth=0)
                axes.add_patch(box)
            x += width
    between = [i + 0.5 for i in range(cells - 1)]
    axes.vlines(between, -0.5, cells - 0.5, color=PALETTE["line"], linewidth=0.5)
    axes.hlines(between, -0.5, cells - 0.5, color=PALETTE["line"], linewidth=0.5)


def _lifted(shares: Tensor) -> Tensor:
    """Shares as strengths of ink: none stays none, the least is seen."""
    return torch.where(shares > 0, 0.15 + 0.85 * shares, 0.0)


TERMINAL_CELLS = 32
"""Most cells on a side of a drawing in a terminal."""
_SHADES = "  ░░▒▒▓▓██"


def terminal(pictures: Sequence[MaskPicture], width: int) -> list[Text]:
    """The masks as lines of at most `width` characters where that many hold one, two characters a cell."""
    lines: list[Text] = []
    for start, end in _rows(pictures, width):
        row = pictures[start:end]
        blocks = [_block(picture) for picture in row]
        height = max(map(len, blocks))
        widths = [max(map(len, block)) for block in blocks]
        for y in range(height):
            line = Text()
            for block, columns in zip(blocks, widths, strict=True):
                part = block[y] if y < len(block) else Text()
                line.append_text(part).append(" " * (columns - len(part) + 3))
            line.rstrip()
            lines.append(line)
        lines.append(Text())
    return lines[:-1]


def _rows(pictures: Sequence[MaskPicture], width: int) -> list[tuple[int, int]]:
    rows, start, used = [], 0, 0
    for index, picture in enumerate(pictures):
        needed = _columns(picture) + 3
        if index > start and used + needed - 3 > width:
            rows.append((start, index))
            start, used = index, 0
        used += needed
    return [*rows, (start, len(pictures))]


def _columns(picture: MaskPicture) -> int:
    about = f"{percentage(picture.allowed)} of pairs"
    return max(len(picture.text), 2 * len(picture.shares), len(about))


def _block(picture: MaskPicture) -> list[Text]:
    lines = [Text(picture.text, style="bold")]
    for row in picture.shares.tolist():
        line = Text()
        for share in row:
            shade = math.ceil(4 * share)
            line.append(_SHADES[2 * shade : 2 * shade + 2] if share else "··", style=None if share else "dim")
        lines.append(line)
    lines.append(Text(f"{percentage(picture.allowed)} of pairs", style="dim"))
    return lines
