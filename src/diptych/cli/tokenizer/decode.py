"""`diptych tokenizer decode TOKENIZER`: ids to text."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from diptych.cli.common import given_text, open_tokenizer, parse

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION = """Token ids to text: ids as arguments, in a .npy file, or as numbers in any text on the standard input.
The bytes of the tokens are written as they are.

examples:
  diptych tokenizer decode mine.json 83 421 16
  diptych tokenizer encode mine.json book.txt | diptych tokenizer decode mine.json > same.txt
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych tokenizer decode`."""

    tokenizer: tyro.conf.Positional[str]
    """The tokenizer."""
    ids: tyro.conf.Positional[tuple[int, ...]] = ()
    """Token ids; none, and no --file: those on the standard input."""
    file: Path | None = None
    """A .npy array of ids."""
    split: str | None = None
    """The split of a .tiktoken or .gguf file that does not say it."""


def main(arguments: list[str]) -> int:
    """Parse, decode, write the bytes."""
    options = parse(Options, arguments, "tokenizer decode", DESCRIPTION)
    tokenizer = open_tokenizer(options.tokenizer, options.split)
    data = tokenizer.decode_bytes(_ids(options))
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty():
        print()
    return 0


def _ids(options: Options) -> np.ndarray | list[int]:
    if options.ids:
        return list(options.ids)
    if options.file is None:
        text = given_text(None, ())
        if stray := re.search(r"[^\s\d,\[\]-]\S*", text):
            raise ValueError(f"the standard input holds {stray[0][:40]!r}, which is no token id")
        return [int(number) for number in re.findall(r"-?\d+", text)]
    import numpy as np

    try:
        ids = np.load(options.file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{options.file} is no .npy file of token ids ({error})") from None
    if not isinstance(ids, np.ndarray):
        raise ValueError(f"{options.file} holds several arrays; give a .npy file with one")
    return ids
