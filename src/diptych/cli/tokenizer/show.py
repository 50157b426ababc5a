"""`diptych tokenizer show TOKENIZER...`: a text in coloured tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diptych.cli.common import given_text, open_tokenizer, parse

DESCRIPTION = """A text in coloured tokens, in the terminal, and as a picture where --out names one. Several tokenizers
stand below each other. Without --text and --file the standard input is read.

TOKENIZER is a tokenizer.json, a .tiktoken or .gguf file, a folder with one, a run folder, or `byte`.

examples:
  diptych tokenizer show mine.json --text "Sun rises from the east"
  diptych tokenizer show byte mine.json runs/mine --text "Sun rises from the east" --out tokens.png
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych tokenizer show`."""

    tokenizers: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TOKENIZER...")]
    """The tokenizers."""
    text: str | None = None
    """The text itself."""
    file: Path | None = None
    """A UTF-8 file."""
    out: Path | None = None
    """Also draw the tokens into this picture (.png)."""
    ids: bool = False
    """Print the id of every token too."""
    split: str | None = None
    """The split of .tiktoken or .gguf files that do not say it."""
    json: bool = False
    """Print one JSON object a tokenizer instead."""


def main(arguments: list[str]) -> int:
    """Parse, encode, show."""
    options = parse(Options, arguments, "tokenizer show", DESCRIPTION)
    if not options.tokenizers:
        raise ValueError('name a tokenizer, as in: diptych tokenizer show mine.json --text "The sun rises"')
    if options.out is not None and options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: a picture is written as .png")
    tokenizers = [(name, open_tokenizer(name, options.split)) for name in options.tokenizers]
    text = given_text(options.text, () if options.file is None else (options.file,))
    from rich.console import Console

    from diptych.report.tokens import drawing, row, terminal

    console = Console(highlight=False, soft_wrap=True)
    rows = [row(name, tokenizer, text) for name, tokenizer in tokenizers]
    for each, (name, tokenizer) in zip(rows, tokenizers, strict=True):
        ids = tokenizer.encode(text).tolist()
        if options.json:
            tokens = [token.decode("utf-8", "backslashreplace") for token in each.tokens]
            print(json.dumps({"tokenizer": name, "ids": ids, "tokens": tokens}, ensure_ascii=False))
            continue
        size = len(b"".join(each.tokens))
        console.print(f"{name}: {len(ids):,} tokens, {size / max(1, len(ids)):.2f} bytes a token", markup=False)
        console.print(terminal(each.tokens))
        if options.ids:
            console.print(" ".join(map(str, ids)))
    if options.out is not None:
        from diptych.report.plots import save_png

        save_png(drawing(rows), options.out)
    return 0
