"""`diptych tokenizer encode TOKENIZER`: text to ids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from diptych.cli.common import given_text, open_tokenizer, parse

DESCRIPTION = """Text to token ids: of --text, of files, or of the standard input.

TOKENIZER is a tokenizer.json, a .tiktoken or .gguf file, a folder with one, a run folder, or `byte`.

examples:
  diptych tokenizer encode mine.json --text "Sun rises from the east"
  diptych tokenizer encode runs/mine book.txt --out book.npy
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych tokenizer encode`."""

    tokenizer: tyro.conf.Positional[str]
    """The tokenizer."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """UTF-8 files; none, and no --text: the standard input."""
    text: str | None = None
    """The text itself."""
    special: Literal["text", "allow", "refuse"] = "text"
    """What looks like a special token: ordinary text, the token, or an error."""
    split: str | None = None
    """The split of a .tiktoken or .gguf file that does not say it."""
    out: Path | None = None
    """Write the ids as a NumPy array (.npy) instead of printing them."""
    json: bool = False
    """Print one JSON array."""


def main(arguments: list[str]) -> int:
    """Parse, encode, print or write."""
    options = parse(Options, arguments, "tokenizer encode", DESCRIPTION)
    tokenizer = open_tokenizer(options.tokenizer, options.split)
    text = given_text(options.text, options.files)
    ids = tokenizer.encode(
        text,
        allowed_special="all" if options.special == "allow" else (),
        disallowed_special="all" if options.special == "refuse" else (),
    )
    if options.out is not None:
        import numpy as np

        from diptych.core.files import replacing

        with replacing(options.out) as temporary, temporary.open("wb") as file:
            np.save(file, ids)
        print(f"{options.out}: {len(ids):,} tokens")
    else:
        print(json.dumps(ids.tolist()) if options.json else " ".join(map(str, ids.tolist())))
    return 0
