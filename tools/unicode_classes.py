"""Make src/diptych/tokenizers/unicode_classes.npz: the class of every code point, as tiktoken's own regex engine sees
it.

python tools/unicode_classes.py

Python's `unicodedata`, `regex` and tiktoken are built from tables of different Unicode versions and disagree on
thousands of code points, so the package carries one table and does not move with the interpreter. The file holds runs:
`starts[i]` is the first code point of run i and `classes[i]` its class, a number of
`diptych.tokenizers.classes.Class`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiktoken

from diptych.tokenizers.classes import N_CODE_POINTS, RUNS_FILE, Class

PATTERNS = {
    Class.MARK: r"\p{M}",
    Class.UPPER: r"[\p{Lu}\p{Lt}]",
    Class.LOWER: r"\p{Ll}",
    Class.LETTER: r"[\p{Lm}\p{Lo}]",
    Class.NUMBER: r"\p{N}",
    Class.SPACE: r"[^\S\r\n]",
    Class.NEWLINE: r"[\r\n]",
}


def members(pattern: str) -> list[int]:
    """The code points that match: tiktoken leaves out of its output what its pattern does not match."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    text = "".join(chr(c) for c in range(N_CODE_POINTS) if not 0xD800 <= c < 0xE000)
    return [ord(character) for character in encoding.decode(encoding.encode_ordinary(text))]


def main() -> None:
    classes = np.zeros(N_CODE_POINTS, np.uint8)
    for kind, pattern in PATTERNS.items():
        found = members(pattern)
        if classes[found].any():
            raise SystemExit(f"{pattern} overlaps another class")
        classes[found] = kind
    starts = np.flatnonzero(np.diff(classes, prepend=np.uint8(255))).astype(np.int32)
    target = Path(__file__).parent.parent / "src/diptych/tokenizers" / RUNS_FILE
    np.savez_compressed(target, starts=starts, classes=classes[starts])
    print(f"{target}: {len(starts)} runs")


if __name__ == "__main__":
    main()
