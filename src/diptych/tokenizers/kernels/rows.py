"""How are chunks of bytes found again? By open-addressing tables of 32-byte rows, half a cache line each.

A row is four uint64: (first key, second key, meta, value); meta 0 marks an empty row, its highest `64 - shift` bits
hold the length of the chunk. Chunks of up to 16 bytes are their own keys. Of longer ones the keys are the first eight
bytes and the hash, and the bytes themselves, kept elsewhere, are compared before a row is believed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import int64, uint64

from diptych.tokenizers.kernels.memory import compiled, inlined, load64, pasted

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ODD = np.uint64(0xD6E8FEB86659FD93)
OWN_KEY = 16
"""Up to this many bytes a chunk is its own key."""


@inlined
def mixed(h: Any) -> Any:
    """A hash whose low bits depend on all bits of h."""
    h = (h ^ (h >> uint64(32))) * ODD
    return h ^ (h >> uint64(29))


@inlined
def load_tail(buffer: Any, p: Any, length: Any) -> Any:
    """The 1 to 8 bytes at p as a little-endian number, whatever may stand behind the buffer's end."""
    if p + 8 <= buffer.size:
        return load64(buffer, p) & (~uint64(0) >> uint64(64 - 8 * length))
    word = uint64(0)
    for i in range(length):
        word |= uint64(buffer[p + i]) << uint64(8 * i)
    return word


@inlined
def hash_of_keys(first: Any, second: Any, length: Any) -> Any:
    """The hash of a row."""
    if length > OWN_KEY:
        return second
    return mixed((first * GOLDEN) ^ mixed((second + uint64(length)) * ODD))


@pasted
def keys_of(buffer: Any, p: Any, length: Any) -> Any:
    """(first key, second key) of the chunk of `length` bytes at p."""
    if length <= 8:
        return load_tail(buffer, p, length), uint64(0)
    first = load64(buffer, p)
    if length <= OWN_KEY:
        return first, load_tail(buffer, p + 8, length - 8)
    h = (first * GOLDEN) ^ (uint64(length) * ODD)
    q, end = p + 8, p + length
    while q + 8 <= end:
        h = (h ^ (h >> uint64(31)) ^ load64(buffer, q)) * GOLDEN
        q += 8
    return first, mixed((h ^ (h >> uint64(31)) ^ load64(buffer, end - 8)) * GOLDEN)


@inlined
def same_bytes(a: Any, p: Any, b: Any, q: Any, length: Any) -> Any:
    """Whether `length` bytes, at least 8, at p in a and at q in b are the same."""
    i = int64(0)
    while i + 8 <= length:
        if load64(a, p + i) != load64(b, q + i):
            return False
        i += 8
    return load64(a, p + length - 8) == load64(b, q + length - 8)


@compiled
def move_rows(rows: Any, larger: Any, shift: Any) -> Any:
    """Put all rows into a larger, empty table; the number of rows of each is a power of two."""
    mask = larger.shape[0] - 1
    for r in range(rows.shape[0]):
        meta = rows[r, 2]
        if meta != uint64(0):
            j = int64(hash_of_keys(rows[r, 0], rows[r, 1], int64(meta >> uint64(shift)))) & mask
            while larger[j, 2] != uint64(0):
                j = (j + 1) & mask
            for i in range(4):
                larger[j, i] = rows[r, i]
