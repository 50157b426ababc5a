"""How are bytes written in vocabulary files? As printable letters, by GPT-2's table."""

from __future__ import annotations


def _letters() -> list[str]:
    """A printable character for each byte: itself where it is one, else the next from U+0100 on (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, free = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else free))
        free += byte not in printable
    return letters


BYTE_TO_LETTER = _letters()
LETTER_TO_BYTE = {letter: byte for byte, letter in enumerate(BYTE_TO_LETTER)}
BYTE_ORDER = sorted(range(256), key=BYTE_TO_LETTER.__getitem__)
"""The byte of each of the ids 0 to 255, in the order that Hugging Face gives them."""


def to_letters(piece: bytes) -> str:
    """Bytes as GPT-2 writes them in vocabulary files."""
    return "".join(map(BYTE_TO_LETTER.__getitem__, piece))


def from_letters(name: str) -> bytes:
    """The bytes of a vocabulary entry. Raises KeyError for a letter outside the table."""
    return bytes(map(LETTER_TO_BYTE.__getitem__, name))
