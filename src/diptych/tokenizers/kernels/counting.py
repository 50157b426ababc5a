"""How often does each chunk of a text occur?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import int64, uint64

from diptych.tokenizers.kernels.memory import compiled, prefetch
from diptych.tokenizers.kernels.rows import OWN_KEY, hash_of_keys, keys_of, same_bytes

SHIFT = 40
"""A row's meta is length << SHIFT | (place of the bytes + 1), its value the count."""

MAX_CHUNK = (1 << 24) - 1
AHEAD = 64
"""Chunks whose rows are asked for before the first of them is used."""


@compiled
def count_chunks(buffer: Any, start: Any, ends: Any, weights: Any, rows: Any, arena: Any, state: Any) -> Any:
    """Add chunks to the table and, where they are new, their bytes to the arena; returns how many were added.

    buffer: uint8; chunk i ends at ends[i] and begins where the one before ends, the first at `start`; weights: int64,
    how often each occurs, or empty: once; rows: uint64 [2**k, 4]; arena: uint8; state: (rows used, arena bytes used).
    Stops early where the table becomes more than half full or the arena has no room, and at a chunk over MAX_CHUNK
    bytes.
    """
    mask = rows.shape[0] - 1
    firsts, seconds = np.empty(AHEAD, np.uint64), np.empty(AHEAD, np.uint64)
    done = 0
    while done < ends.size:
        block = min(AHEAD, ends.size - done)
        if 2 * (state[0] + block) > rows.shape[0]:
            return done
        p = start
        for r in range(block):
            length = ends[done + r] - p
            first, second = keys_of(buffer, p, length)
            prefetch(rows, (int64(hash_of_keys(first, second, length)) & mask) << 2)
            firsts[r], seconds[r] = first, second
            p = ends[done + r]
        for r in range(block):
            end = ends[done + r]
            length = end - start
            first, second = firsts[r], seconds[r]
            j = int64(hash_of_keys(first, second, length)) & mask
            weight = weights[done + r] if weights.size else int64(1)
            while True:
                meta = rows[j, 2]
                if meta == uint64(0):
                    if length > MAX_CHUNK or state[1] + length > arena.size:
                        return done + r
                    place = state[1]
                    for i in range(length):
                        arena[place + i] = buffer[start + i]
                    rows[j, 0], rows[j, 1] = first, second
                    rows[j, 2] = (uint64(length) << uint64(SHIFT)) | uint64(place + 1)
                    rows[j, 3] = uint64(weight)
                    state[0] += 1
                    state[1] += length
                    break
                if rows[j, 0] == first and rows[j, 1] == second and int64(meta >> uint64(SHIFT)) == length:
                    place = int64(meta & uint64((1 << SHIFT) - 1)) - 1
                    if length <= OWN_KEY or same_bytes(arena, place, buffer, start, length):
                        rows[j, 3] += uint64(weight)
                        break
                j = (j + 1) & mask
            start = end
        done += block
    return done
