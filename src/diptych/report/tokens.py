"""How is a text shown as its tokens? In coloured boxes, in a terminal or as a drawing."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from rich.text import Text

from diptych.report.plots import PALETTE, style
from diptych.report.words import visible
from diptych.tokenizers.base import Tokenizer

COLOURS = tuple(PALETTE[f"token-{i}"] for i in range(6))
"""Backgrounds of neighbouring tokens."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A text as one tokenizer cuts it."""

    name: str
    tokens: tuple[bytes, ...]


def row(name: str, tokenizer: Tokenizer, text: str) -> Row:
    """The tokens of a text."""
    return Row(name=name, tokens=tuple(tokenizer.token_bytes(int(token)) for token in tokenizer.encode(text)))


def terminal(tokens: Iterable[bytes]) -> Text:
    """The tokens in colours, as rich prints them: a line end is shown by its sign and ends the line.

    A character whose bytes stand in several tokens is shown whole in the colour of the last of them, behind a dot for
    each of the others.
    """
    text = Text()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token, colour in zip(tokens, cycle(COLOURS)):
        shown = decoder.decode(token) or "·"
        # Control characters would act on the terminal; line ends are kept behind their sign.
        text.append("".join(_shown(character) for character in shown), style=f"black on {colour}")
    if decoder.decode(b"", final=True):
        text.append("\N{REPLACEMENT CHARACTER}")
    return text


def _shown(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character == "\t":
        return "⇥\t"
    if unicodedata.category(character) not in ("Cc", "Cf"):
        return character
    return visible(character) if character < " " or character == "\x7f" else f"<{ord(character):x}>"


def _columns(label: str) -> int:
    """The width of a text in characters of a fixed-width font."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label)


CELL, LINE = 0.1, 0.3
"""Inches of a character's width and of a row of boxes."""


def drawing(rows: Sequence[Row], *, width: float = 7.4) -> Figure:
    """Each row's name and count above its tokens in boxes, broken into lines of `width` inches."""
    per_line = int(width / CELL)
    lines: list[tuple[str, list[tuple[str, int, int]]]] = []
    for each in rows:
        unit = "token" if len(each.tokens) == 1 else "tokens"
        lines.append((f"{each.name}: {len(each.tokens):,} {unit}", []))
        column: int = per_line + 1
        for index, token in enumerate(each.tokens):
            label = visible(token)
            size = _columns(label) + 1
            if column + size > per_line:
                lines.append(("", []))
                column = 0
            lines[-1][1].append((label, column, index))
            column += size
    with style():
        figure = Figure(figsize=(width, LINE * len(lines)), layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, per_line)
        axes.set_ylim(len(lines), 0)
        axes.axis("off")
        for place, (title, boxes) in enumerate(lines):
            axes.text(0, place + 0.68, title, va="center", fontsize=8.5, color=PALETTE["muted"])
            for label, column, index in boxes:
                width_of_box = _columns(label) + 0.8
                box = FancyBboxPatch(
                    (column + 0.05, place + 0.1),
                    width_of_box,
                    0.8,
                    boxstyle="round,pad=0,rounding_size=0.15",
                    facecolor=COLOURS[index % len(COLOURS)],
                    linewidth=0,
                )
                axes.add_patch(box)
                axes.text(
                    column + 0.05 + width_of_box / 2,
                    place + 0.52,
                    label,
                    va="center",
                    ha="center",
                    family="monospace",
                    fontsize=8.8,
                    color=PALETTE["ink"],
                )
    return figure
