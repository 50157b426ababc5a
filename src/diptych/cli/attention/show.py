"""`diptych attention show [MASK...]`: who may attend to whom."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diptych.cli.common import parse
from diptych.core.mask_text import KINDS

_USAGES = {kind.usage(name): kind.about for name, kind in KINDS.items()}

DESCRIPTION = """Draw masks: a row for each query, a column for each key, filled where the query may attend to the key.
Several stand side by side; without MASK, one of every kind. A long mask is scaled down, its cells shaded by their share
of allowed pairs.

A mask is a name with whole numbers. `&`: both allow; `|`: either allows; `&` binds closer, parentheses group.

{kinds}

examples:
  diptych attention show
  diptych attention show causal "causal & window(4)" "causal & (window(4) | sinks(2))" --out masks.png
  diptych attention show "causal & (window(256) | strided(512))" --length 4096 --out long.png
""".format(kinds="\n".join(f"  {usage:<50}{about}" for usage, about in _USAGES.items()))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych attention show`."""

    masks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MASK...")] = ()
    """The masks; none: one of every kind."""
    length: int = 16
    """Number of positions."""
    out: Path | None = None
    """Also draw the masks into this picture (.png)."""
    json: bool = False
    """Print one JSON object a mask instead: its text, length and share of allowed pairs."""


def main(arguments: list[str]) -> int:
    """Parse, count, draw."""
    options = parse(Options, arguments, "attention show", DESCRIPTION)
    if options.out is not None and options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: a picture is written as .png")
    from rich.console import Console

    from diptych.report.masks import FINEST, GALLERY, TERMINAL_CELLS, mask_picture, masks_figure, terminal

    texts = options.masks or GALLERY
    pictures = [mask_picture(text, options.length, TERMINAL_CELLS) for text in texts]
    if options.json:
        for picture in pictures:
            print(json.dumps({"mask": picture.text, "length": picture.length, "allowed": picture.allowed}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in terminal(pictures, console.width):
            console.print(line)
    if options.out is not None:
        from diptych.report.plots import save_png

        # The terminal has fewer cells than a picture.
        fine = options.length > TERMINAL_CELLS
        save_png(
            masks_figure([mask_picture(text, options.length, FINEST) for text in texts] if fine else pictures),
            options.out,
        )
        print(f"drawn in {options.out}", file=sys.stderr)
    return 0
