"""How is a text shown that fills in all over, not from left to right?

Each step of a backward process of text becomes a canvas: pieces of text and what each is, given, hidden, new in this
step, or from an earlier one. A canvas is shown in a terminal, as a picture of an animation, or on a page of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from diptych.core.files import write_text
from diptych.core.types import Frame
from diptych.report.environment import page_environment
from diptych.report.images import save_pictures
from diptych.report.words import readable
from diptych.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from rich.text import Text

Kind = Literal["given", "hidden", "new", "old"]

HIDDEN, END = "▒▒", "∎\n"

COLOURS: dict[Kind, str] = {"given": "#626a79", "hidden": "#c9cedb", "new": "#c2521a", "old": "#2b59c3"}

LINE = 88
"""Characters of a line in a picture."""


@dataclass(frozen=True)
class Piece:
    """A token as it is shown."""

    text: str
    kind: Kind


Canvas = tuple[Piece, ...]
"""One row of a backward process at one step, its opening token left out."""


def canvases(
    frames: Iterable[Frame], tokenizer: Tokenizer, *, given: Bool[Tensor, " n"], mask_id: int | None, row: int = 0
) -> Iterator[Canvas]:
    """One row of each frame. given: which positions the process does not touch. mask_id: the token that hides; None:
    nothing is hidden, tokens change."""
    before: Tensor | None = None
    for frame in frames:
        state = frame.state[row].cpu()
        changed = torch.ones_like(state, dtype=torch.bool) if before is None else state != before
        yield tuple(
            Piece(*_shown(token, bool(changed[at]), bool(given[at]), tokenizer, mask_id))
            for at, token in enumerate(state.tolist())
            if at
        )
        before = state


def _shown(token: int, changed: bool, given: bool, tokenizer: Tokenizer, mask_id: int | None) -> tuple[str, Kind]:
    if token == mask_id:
        return HIDDEN, "hidden"
    text = END if token == tokenizer.eos_id else readable(tokenizer.token_bytes(token).decode("utf-8", "replace"))
    return text, "given" if given else "new" if changed else "old"


def terminal_text(canvas: Canvas) -> Text:
    """A canvas in colours, for rich."""
    from rich.text import Text

    styles: dict[Kind, str] = {"given": "bold", "hidden": "bright_black", "new": "bold dark_orange", "old": "default"}
    return Text.assemble(*((piece.text, styles[piece.kind]) for piece in canvas))


def save_page(steps: Sequence[Canvas], path: Path, *, title: str) -> None:
    """Write a page with a slider through the steps, which needs nothing else, atomically.

    Raises ValueError for no steps.
    """
    if not steps:
        raise ValueError("a page needs at least one step")
    kinds: list[Kind] = ["given", "hidden", "new", "old"]
    # Each step as what differs from the one before: (place, text, kind).
    before: Canvas = ()
    changes = []
    for step in steps:
        changes.append(
            [(i, p.text, kinds.index(p.kind)) for i, p in enumerate(step) if i >= len(before) or p != before[i]]
        )
        before = step
    # Within a script a closing tag would end it, whatever the text is that it stands in.
    data = json.dumps(changes, ensure_ascii=False).replace("<", "\\u003c")
    page = page_environment().get_template("canvas.html.j2").render(title=title, changes=data, colours=COLOURS)
    write_text(path, page)


def save_film(steps: Sequence[Canvas], path: Path) -> None:
    """Write the steps as an animation (.gif, .apng), atomically. Raises ValueError for another name or no steps."""
    lines = [_lines(step) for step in steps]
    height = max((len(rows) for rows in lines), default=1)
    save_pictures([_picture(rows, height) for rows in lines], path)


def _lines(canvas: Canvas) -> list[list[Piece]]:
    """The pieces broken into lines of at most `LINE` characters."""
    lines: list[list[Piece]] = [[]]
    for piece in canvas:
        for index, text in enumerate(piece.text.replace("\t", "    ").split("\n")):
            if index:
                lines.append([])
            rest = text
            while rest:
                room = LINE - sum(len(p.text) for p in lines[-1])
                if room:
                    lines[-1].append(Piece(rest[:room], piece.kind))
                else:
                    lines.append([])
                rest = rest[room:]
    return lines


def _picture(lines: list[list[Piece]], height: int) -> Any:
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf", 14)
    wide, high, edge = font.getlength("m"), 20, 16
    size = round(LINE * wide) + 2 * edge, height * high + 2 * edge
    image = Image.new("RGB", size, "#fefefe")
    draw = ImageDraw.Draw(image)
    for row, pieces in enumerate(lines):
        x = float(edge)
        for piece in pieces:
            draw.text((x, edge + row * high), piece.text, fill=COLOURS[piece.kind], font=font)
            x += wide * len(piece.text)
    return image
