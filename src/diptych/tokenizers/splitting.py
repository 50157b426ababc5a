"""Where may a token not cross? The split of text into chunks before byte-pair merges, and GPT-2's letters for bytes."""

from __future__ import annotations

import regex

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Radford et al. 2019: contractions, words, numbers, other signs, white space. Characters that Unicode added lately
may fall into another class than in a library built with an older table."""

GPT2_SPLIT = regex.compile(GPT2_PATTERN)


def _letters() -> list[str]:
    """A printable character for each byte: itself where it is one, else the next from U+0100 on (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, free = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else free))
        free += byte not in printable
    return letters


BYTE_TO_LETTER = _letters()
BYTE_ORDER = sorted(range(256), key=BYTE_TO_LETTER.__getitem__)
"""The byte of each of the ids 0 to 255, in the order that Hugging Face gives them."""


def to_letters(piece: bytes) -> str:
    """Bytes as GPT-2 writes them in vocabulary files."""
    return "".join(map(BYTE_TO_LETTER.__getitem__, piece))
