"""How does byte-pair encoding cut a chunk, at the speed of a look-up?

Words repeat: the tokens of a chunk are remembered by its bytes, and only a chunk not seen before is merged, lowest
rank first and leftmost among equals. Short chunks scan for the lowest rank, long ones keep a heap, so none takes
quadratic time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import int32, int64, uint64

from diptych.tokenizers.kernels.memory import compiled, grown, inlined, load64, prefetch, store64
from diptych.tokenizers.kernels.rows import GOLDEN, OWN_KEY, hash_of_keys, keys_of, same_bytes

NEVER = np.int32(0x7FFFFFFF)
"""The rank of a pair that is not merged."""

RANK_BITS = 22
"""A pair's entry is (left + 1) << 43 | right << RANK_BITS | rank; 0 is an empty one."""

MAX_TOKENS, MAX_RANKS = (1 << 21) - 1, 1 << RANK_BITS

LENGTH_SHIFT, COUNT_SHIFT = 48, 32
"""A row's meta is length << 48 | number of tokens << 32 | place of its bytes in the byte pool (over 16 bytes). Its
value: one or two ids, or for more of them their place in the id pool."""

MAX_LENGTH = 0xFFFF
"""Bytes of the longest vocabulary entry that is looked up as a whole."""

REMEMBERED = 255
"""Bytes of the longest chunk that is remembered."""

SHORT = 64
"""Bytes up to which scanning for the lowest rank is faster than a heap."""

AHEAD = 64
"""Chunks whose rows are asked for before the first of them is used."""

N_ROWS, N_BYTES, N_IDS, DOCUMENT, N_OUT = range(5)
"""What the entries of `state` count: rows used, bytes and ids in the pools, the current document, tokens written."""


@inlined
def _pair_hash(key: Any, mask: Any) -> Any:
    return int64((key * GOLDEN) >> uint64(32)) & mask


@compiled
def build_pairs(lefts: Any, rights: Any, ranks: Any) -> Any:
    """The table of pairs: uint64 [2**k]. Of a pair that is named twice the last rank holds."""
    size = 16
    while size < 3 * lefts.size:
        size *= 2
    table = np.zeros(size, np.uint64)
    for i in range(lefts.size):
        key = (uint64(lefts[i] + 1) << uint64(21)) | uint64(rights[i])
        j = _pair_hash(key, size - 1)
        while table[j] != uint64(0) and table[j] >> uint64(RANK_BITS) != key:
            j = (j + 1) & (size - 1)
        table[j] = (key << uint64(RANK_BITS)) | uint64(ranks[i])
    return table


@inlined
def _rank(pairs: Any, left: Any, right: Any) -> Any:
    mask = pairs.size - 1
    key = (uint64(left + int32(1)) << uint64(21)) | uint64(right)
    j = _pair_hash(key, mask)
    while True:
        entry = pairs[j]
        if entry >> uint64(RANK_BITS) == key:
            return int32(entry & uint64(MAX_RANKS - 1))
        if entry == uint64(0):
            return NEVER
        j = (j + 1) & mask


@inlined
def _find(rows: Any, byte_pool: Any, buffer: Any, p: Any, length: Any, first: Any, second: Any) -> Any:
    """The row of a chunk, or the empty one where it would stand."""
    mask = rows.shape[0] - 1
    j = int64(hash_of_keys(first, second, length)) & mask
    while True:
        meta = rows[j, 2]
        if meta == uint64(0):
            return j
        if rows[j, 0] == first and rows[j, 1] == second and int64(meta >> uint64(LENGTH_SHIFT)) == length:
            if length <= OWN_KEY:
                return j
            if same_bytes(byte_pool, int64(meta & uint64(0xFFFFFFFF)), buffer, p, length):
                return j
        j = (j + 1) & mask


@inlined
def _remember(
    rows: Any, byte_pool: Any, id_pool: Any, state: Any,
    j: Any, first: Any, second: Any, buffer: Any, p: Any, length: Any, ids: Any, at: Any, count: Any,
) -> Any:  # fmt: skip
    """Fill the empty row j with the ids[at : at + count] of a chunk."""
    place = int64(0)
    if length > OWN_KEY:
        place = state[N_BYTES]
        for i in range(length):
            byte_pool[place + i] = buffer[p + i]
        state[N_BYTES] += length
    value = uint64(ids[at])
    if count == 2:
        value |= uint64(ids[at + 1]) << uint64(32)
    elif count > 2:
        value = uint64(state[N_IDS])
        for i in range(count):
            id_pool[state[N_IDS] + i] = ids[at + i]
        state[N_IDS] += count
    rows[j, 0], rows[j, 1], rows[j, 3] = first, second, value
    rows[j, 2] = (uint64(length) << uint64(LENGTH_SHIFT)) | (uint64(count) << uint64(COUNT_SHIFT)) | uint64(place)
    state[N_ROWS] += 1


@compiled
def remember_pieces(pieces: Any, offsets: Any, rows: Any, byte_pool: Any, id_pool: Any, state: Any) -> Any:
    """Make every vocabulary entry the one token of a chunk of its spelling; of equal ones the first counts."""
    ids = np.empty(1, np.int32)
    for token in range(offsets.size - 1):
        p, length = offsets[token], offsets[token + 1] - offsets[token]
        if 0 < length <= MAX_LENGTH:
            first, second = keys_of(pieces, p, length)
            j = _find(rows, byte_pool, pieces, p, length, first, second)
            if rows[j, 2] == uint64(0):
                ids[0] = token
                _remember(rows, byte_pool, id_pool, state, j, first, second, pieces, p, length, ids, 0, 1)


@compiled
def pairs_of_pieces(pieces: Any, offsets: Any, rows: Any, byte_pool: Any) -> Any:
    """tiktoken's merges: every cut of a vocabulary entry into two others, ranked by its id. (lefts, rights, ranks).

    The rows must hold all vocabulary entries (`remember_pieces`).
    """
    lengths = offsets[1:] - offsets[:-1]
    occurs = np.zeros(lengths.max() + 1, np.uint8)  # lengths: so that very long entries take no quadratic time
    for length in lengths:
        occurs[length] = 1
    room, n = 1 << 16, 0
    lefts, rights, ranks = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    for token in range(offsets.size - 1):
        start, end = offsets[token], offsets[token + 1]
        for cut in range(start + 1, end):
            if occurs[cut - start] == 0 or occurs[end - cut] == 0:
                continue
            first, second = keys_of(pieces, start, cut - start)
            left = _find(rows, byte_pool, pieces, start, cut - start, first, second)
            if rows[left, 2] == uint64(0):
                continue
            first, second = keys_of(pieces, cut, end - cut)
            right = _find(rows, byte_pool, pieces, cut, end - cut, first, second)
            if rows[right, 2] == uint64(0):
                continue
            if n == lefts.size:
                lefts, rights, ranks = grown(lefts, 2 * n), grown(rights, 2 * n), grown(ranks, 2 * n)
            lefts[n], rights[n], ranks[n] = int32(rows[left, 3]), int32(rows[right, 3]), token
            n += 1
    return lefts[:n], rights[:n], ranks[:n]


@inlined
def _merge_short(
    buffer: Any, p: Any, length: Any, byte_ids: Any, byte_pairs: Any, pairs: Any, merged: Any, ranks: Any,
    out: Any, at: Any,
) -> Any:  # fmt: skip
    """The tokens of a chunk of up to SHORT bytes, written from out[at] on; how many."""
    n = length
    best, place = NEVER, int64(0)
    left = int64(buffer[p])
    out[at] = byte_ids[left]
    for i in range(1, n):
        right = int64(buffer[p + i])
        out[at + i] = byte_ids[right]
        rank = byte_pairs[(left << 8) | right]
        ranks[i - 1] = rank
        if rank < best:
            best, place = rank, int64(i - 1)
        left = right
    while best != NEVER:
        token = merged[best]
        out[at + place] = token
        for i in range(place + 1, n - 1):
            out[at + i] = out[at + i + 1]
            ranks[i] = ranks[i + 1]
        n -= 1
        if place < n - 1:
            ranks[place] = _rank(pairs, token, out[at + place + 1])
        if place > 0:
            ranks[place - 1] = _rank(pairs, out[at + place - 1], token)
        best = NEVER
        for i in range(n - 1):
            if ranks[i] < best:
                best, place = ranks[i], int64(i)
    return n


@inlined
def _sift_down(heap: Any, k: Any, size: Any, key: Any) -> Any:
    """Put a key at place k of a heap in which each place has four below it."""
    while True:
        child = 4 * k + 1
        if child >= size:
            break
        least = child
        for other in range(child + 1, min(child + 4, size)):
            if heap[other] < heap[least]:
                least = other
        if heap[least] >= key:
            break
        heap[k] = heap[least]
        k = least
    heap[k] = key


@inlined
def _sift_up(heap: Any, k: Any, key: Any) -> Any:
    while k > 0:
        parent = (k - 1) >> 2
        if heap[parent] <= key:
            break
        heap[k] = heap[parent]
        k = parent
    heap[k] = key


@compiled
def _merge_long(
    buffer: Any, p: Any, length: Any, byte_ids: Any, byte_pairs: Any, pairs: Any, merged: Any, out: Any, at: Any
) -> Any:
    """The same for a chunk of any length, in O(n log n): a heap of (rank, position), entries out of date skipped."""
    nodes = np.empty((length, 4), np.int32)  # token, rank of the pair that begins here, next, previous
    heap = np.empty(3 * length + 8, np.int64)
    size = int64(0)
    for i in range(length):
        nodes[i, 0], nodes[i, 1] = byte_ids[buffer[p + i]], NEVER
        nodes[i, 2], nodes[i, 3] = i + 1, i - 1
        if i + 1 < length:
            rank = byte_pairs[(int64(buffer[p + i]) << 8) | int64(buffer[p + i + 1])]
            nodes[i, 1] = rank
            if rank != NEVER:
                heap[size] = (int64(rank) << 32) | int64(i)
                size += 1
    for k in range((size - 2) >> 2, -1, -1):
        _sift_down(heap, k, size, heap[k])
    while size > 0:
        key = heap[0]
        size -= 1
        if size > 0:
            _sift_down(heap, int64(0), size, heap[size])
        rank, i = int32(key >> 32), key & 0xFFFFFFFF
        if nodes[i, 1] != rank:
            continue
        token = merged[rank]
        j = int64(nodes[i, 2])
        following, before = int64(nodes[j, 2]), int64(nodes[i, 3])
        nodes[i, 0], nodes[i, 1], nodes[i, 2] = token, NEVER, following
        nodes[j, 1] = NEVER
        if following < length:
            nodes[following, 3] = i
            rank = _rank(pairs, token, nodes[following, 0])
            nodes[i, 1] = rank
            if rank != NEVER:
                _sift_up(heap, size, (int64(rank) << 32) | i)
                size += 1
        if before >= 0:
            rank = _rank(pairs, nodes[before, 0], token)
            nodes[before, 1] = rank
            if rank != NEVER:
                _sift_up(heap, size, (int64(rank) << 32) | before)
                size += 1
    n, i = int64(0), int64(0)
    while i < length:
        out[at + n] = nodes[i, 0]
        n += 1
        i = int64(nodes[i, 2])
    return n


@compiled
def encode_chunks(
    buffer: Any, start: Any, ends: Any, done: Any, n_ends: Any, offsets: Any, token_offsets: Any,
    byte_ids: Any, byte_pairs: Any, pairs: Any, merged: Any,
    rows: Any, byte_pool: Any, id_pool: Any, state: Any, out: Any,
) -> Any:  # fmt: skip
    """Write the tokens of the chunks done to n_ends from out[state[N_OUT]] on; returns the number of chunks encoded.

    buffer: uint8; chunk i ends at ends[i] and begins where the one before ends, chunk `done` at `start`; offsets: where
    documents begin; token_offsets: where their tokens do, filled in; byte_ids: int32 [256], the token of each byte;
    byte_pairs: int32 [65536], the rank of each pair of bytes; merged: int32, the token that each rank makes; out: int32
    with room for a token a byte and one more. Stops early where the table or a pool has no more room.
    """
    mask = rows.shape[0] - 1
    firsts, seconds = np.empty(AHEAD, np.uint64), np.empty(AHEAD, np.uint64)
    ranks = np.empty(SHORT, np.int32)
    n, document = state[N_OUT], state[DOCUMENT]
    while document < offsets.size - 1 and start >= offsets[document + 1]:  # empty ones in front
        document += 1
        token_offsets[document] = n
    while done < n_ends:
        block = min(AHEAD, n_ends - done)
        if (
            2 * (state[N_ROWS] + block) > rows.shape[0]
            or state[N_BYTES] + block * REMEMBERED > byte_pool.size
            or state[N_IDS] + block * REMEMBERED > id_pool.size
        ):
            break
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
            j = int64(0)
            meta = uint64(0)
            if length <= MAX_LENGTH:
                j = _find(rows, byte_pool, buffer, start, length, firsts[r], seconds[r])
                meta = rows[j, 2]
            if meta != uint64(0):
                count = int64((meta >> uint64(COUNT_SHIFT)) & uint64(0xFFFF))
                value = rows[j, 3]
                if count <= 2:
                    out[n] = int32(value & uint64(0xFFFFFFFF))
                    out[n + 1] = int32(value >> uint64(32))
                else:
                    place = int64(value)
                    for i in range(count):
                        out[n + i] = id_pool[place + i]
            else:
                if length <= SHORT:
                    count = _merge_short(buffer, start, length, byte_ids, byte_pairs, pairs, merged, ranks, out, n)
                else:
                    count = _merge_long(buffer, start, length, byte_ids, byte_pairs, pairs, merged, out, n)
                if length <= REMEMBERED:
                    _remember(
                        rows, byte_pool, id_pool, state, j, firsts[r], seconds[r], buffer, start, length, out, n, count
                    )
            n += count
            start = end
            while document < offsets.size - 1 and end >= offsets[document + 1]:
                document += 1
                token_offsets[document] = n
        done += block
    state[N_OUT], state[DOCUMENT] = n, document
    return done


@compiled
def joined_size(ids: Any, offsets: Any) -> Any:
    """The bytes of all tokens together; -1 - i where the i-th id is no token."""
    size = int64(0)
    for t in range(ids.size):
        token = int64(ids[t])
        if token < 0 or token >= offsets.size - 1 or offsets[token + 1] == offsets[token]:
            return int64(-1 - t)
        size += offsets[token + 1] - offsets[token]
    return size


@compiled
def join_pieces(ids: Any, pieces: Any, offsets: Any, out: Any) -> Any:
    """Write the bytes of all tokens in a row, eight at a time: pieces and out end in eight bytes more."""
    n = int64(0)
    for t in range(ids.size):
        start, end = offsets[ids[t]], offsets[ids[t] + 1]
        for i in range(start, end, 8):
            store64(out, n + i - start, load64(pieces, i))
        n += end - start
