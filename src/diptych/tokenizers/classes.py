"""Is a character a letter, a number, a space?

One table for every code point, shipped with the package (made by tools/unicode_classes.py), so that the split of a text
does not depend on the Unicode version of an interpreter or a library.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

N_CODE_POINTS = 0x110000
RUNS_FILE = "unicode_classes.npz"


class Class(IntEnum):
    r"""What the split patterns tell apart: `\p{L}` is UPPER to LETTER, `\s` is SPACE and NEWLINE."""

    OTHER = 0
    MARK = 1
    UPPER = 2
    LOWER = 3
    LETTER = 4
    NUMBER = 5
    SPACE = 6
    NEWLINE = 7


@cache
def class_table() -> NDArray[np.uint8]:
    """The `Class` of every code point: uint8 [0x110000], read-only."""
    with files("diptych.tokenizers").joinpath(RUNS_FILE).open("rb") as file:
        runs = np.load(file, allow_pickle=False)
        starts, classes = runs["starts"], runs["classes"]
    table = np.repeat(classes, np.diff(starts, append=N_CODE_POINTS))
    table.flags.writeable = False
    return table
