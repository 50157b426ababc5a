"""Which pairs does byte-pair encoding merge? (Sennrich et al. 2016, algorithm 1)

The most frequent pair, again and again. What makes it fast:

- A pair that appears contains the token just made. So the list of its positions is complete at once, and its count only
  falls: the heap may be lazy, and pairs too rare to matter stay outside of it until its threshold sinks.
- No merge makes a string that is a token already, where no two symbols are spelt alike: between two ends that no token
  has crossed so far, equal strings are cut alike, so the first merge that made the string made it everywhere.
- A token that covers the cells [s, e) is written at s and at e - 1: neighbours are found without linked lists.
- The pair table is updated once for each distinct neighbour of a merge, not for each occurrence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import int64, uint64

from diptych.tokenizers.kernels.memory import compiled, inlined, prefetch
from diptych.tokenizers.kernels.rows import GOLDEN

EDGE, INSIDE = -1, -2
"""What a cell holds between chunks, and inside a token."""

LEAST_PAIR, FIRST_PLACE = 0, 1
"""Among equal counts: the smallest (left id, right id), or the pair that comes first in the text."""

AHEAD = 12
"""Positions ahead of the current one whose cells are asked for."""

KEY, COUNT, START, SIZE = range(4)
"""Columns of a pair: left << 32 | right; how often it stands; its positions, from START on, and their number."""

LOST, WON, N_WON, AT = 0, 2, 4, 6
"""Columns of a neighbour's tally, each for the left side and one further for the right: the count of the pair that
disappeared beside it, and of the one that appeared, with the number and the place of its positions."""

LOW = (1 << 32) - 1

RECENT = 1 << 16
"""Pairs that are found without the table while all are counted."""


@compiled
def lay_out(arena: Any, places: Any, lengths: Any, counts: Any, symbols: Any, cells: Any) -> Any:
    """Write chunks as cells: int32 [2 n], symbol and count of its chunk interleaved, an EDGE around each chunk.

    arena: uint8; chunk i are the `lengths[i]` bytes from `places[i]` on; symbols: int32 [256], the token of each byte.
    Chunks of one byte have no pairs and are left out: n is 1 more than the sum of the other lengths plus 1 each.
    """
    cells[0] = EDGE
    p = 1
    for w in range(places.size):
        if lengths[w] > 1:
            for i in range(lengths[w]):
                cells[2 * p] = symbols[arena[places[w] + i]]
                cells[2 * p + 1] = counts[w]
                p += 1
            cells[2 * p] = EDGE
            p += 1


@inlined
def _slot(table: Any, pairs: Any, key: Any) -> Any:
    """Where a pair stands in the table, or the empty place where it would."""
    mask = table.size - 1
    h = uint64(key) * GOLDEN
    j = int64(h ^ (h >> uint64(29))) & mask
    while table[j] >= 0 and pairs[table[j], KEY] != key:
        j = (j + 1) & mask
    return j


@inlined
def _rehashed(pairs: Any, n_pairs: Any, size: Any) -> Any:
    """The table of all pairs with `size` places."""
    table = np.empty(size, np.int32)
    for j in range(size):
        table[j] = -1
    for q in range(n_pairs):
        table[_slot(table, pairs, pairs[q, KEY])] = q
    return table


@inlined
def _taller(rows: Any, height: Any) -> Any:
    """A copy with room for `height` rows."""
    taller = np.empty((height, rows.shape[1]), rows.dtype)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            taller[i, j] = rows[i, j]
    return taller


@inlined
def _before(count: Any, tie: Any, heap: Any, i: Any) -> Any:
    """Whether an entry comes before entry i of the heap."""
    return count > heap[i, 0] or (count == heap[i, 0] and tie < heap[i, 1])


@inlined
def _push(heap: Any, size: Any, count: Any, tie: Any, pair: Any) -> Any:
    """Add an entry to a heap of `size` entries, which grows where it is full; returns the heap."""
    if size == heap.shape[0]:
        heap = _taller(heap, 2 * size)
    i = size
    while i > 0 and _before(count, tie, heap, (i - 1) >> 1):
        for column in range(3):
            heap[i, column] = heap[(i - 1) >> 1, column]
        i = (i - 1) >> 1
    heap[i, 0], heap[i, 1], heap[i, 2] = count, tie, pair
    return heap


@inlined
def _sift(heap: Any, size: Any, count: Any, tie: Any, pair: Any) -> Any:
    """Put an entry in the place of the first of `size` entries."""
    i = int64(0)
    while 2 * i + 1 < size:
        j = 2 * i + 1
        if j + 1 < size and _before(heap[j + 1, 0], heap[j + 1, 1], heap, j):
            j += 1
        if _before(count, tie, heap, j):
            break
        for column in range(3):
            heap[i, column] = heap[j, column]
        i = j
    heap[i, 0], heap[i, 1], heap[i, 2] = count, tie, pair


@inlined
def _holds(cells: Any, s: Any, left: Any, right: Any, left_size: Any) -> Any:
    """Whether a pair stands at cell s: a cell holds a token's id only at the token's first and last cell."""
    e = s + left_size
    return cells[2 * s] == left and cells[2 * e] == right and (left_size == 1 or cells[2 * (e - 1)] == left)


@inlined
def _tie(cells: Any, positions: Any, pairs: Any, sizes: Any, pair: Any, ties: Any) -> Any:
    """What decides among pairs of one count: the smallest first."""
    key = pairs[pair, KEY]
    if ties == LEAST_PAIR:
        return key
    left, right = key >> 32, key & LOW
    while pairs[pair, SIZE] > 0:
        s = int64(positions[pairs[pair, START]])
        if _holds(cells, s, left, right, int64(sizes[left])):
            return s
        pairs[pair, START] += 1
        pairs[pair, SIZE] -= 1
    return int64(cells.size)


@inlined
def _place(left: Any, right: Any) -> Any:
    """Where a pair is looked for first: pairs of bytes have places of their own."""
    return ((int64(left) << 8) ^ int64(right)) & (RECENT - 1)


@inlined
def _count_pairs(cells: Any, n: Any, pairs: Any, table: Any, positions: Any) -> Any:
    """All pairs with their counts and positions: (pairs, number of pairs, table, number of positions)."""
    n_pairs = int64(0)
    recent = np.zeros(RECENT, np.int32)
    pairs[0, KEY] = -1
    for i in range(1, n - 1):
        left, right = cells[2 * i], cells[2 * i + 2]
        if left >= 0 and right >= 0:
            key = (int64(left) << 32) | int64(right)
            q = int64(recent[_place(left, right)])
            if pairs[q, KEY] != key:
                j = _slot(table, pairs, key)
                q = int64(table[j])
                if q < 0:
                    q = n_pairs
                    if q == pairs.shape[0]:
                        pairs = _taller(pairs, 2 * q)
                    pairs[q, KEY], pairs[q, COUNT], pairs[q, START], pairs[q, SIZE] = key, 0, 0, 0
                    table[j] = q
                    n_pairs += 1
                    if 4 * n_pairs > table.size:
                        table = _rehashed(pairs, n_pairs, 4 * table.size)
                recent[_place(left, right)] = q
            pairs[q, COUNT] += cells[2 * i + 1]
            pairs[q, SIZE] += 1
    n_positions = int64(0)
    for q in range(n_pairs):
        pairs[q, START] = n_positions
        n_positions += pairs[q, SIZE]
        pairs[q, SIZE] = 0
    for i in range(1, n - 1):
        left, right = cells[2 * i], cells[2 * i + 2]
        if left >= 0 and right >= 0:
            key = (int64(left) << 32) | int64(right)
            q = int64(recent[_place(left, right)])
            if pairs[q, KEY] != key:
                q = int64(table[_slot(table, pairs, key)])
                recent[_place(left, right)] = q
            positions[pairs[q, START] + pairs[q, SIZE]] = i
            pairs[q, SIZE] += 1
    return pairs, n_pairs, table, n_positions


@inlined
def _rewrite(
    cells: Any, positions: Any, start: Any, n: Any, a: Any, b: Any, size_a: Any, size_b: Any, z: Any, tally: Any,
    near: Any,
) -> Any:  # fmt: skip
    """Write the token z where the pair (a, b) stands and tally what disappears beside it.

    The places of the occurrences are put in front of the pair's `n` positions, which stand in the order of the text:
    runs such as aaa are merged from the left. Returns their number, and how many tokens near[0] and near[1] name as
    left and right neighbours.
    """
    n_merged = n_left = n_right = int64(0)
    for t in range(start, start + n):
        if t + AHEAD < start + n:
            prefetch(cells, 2 * int64(positions[t + AHEAD]))
        s = int64(positions[t])
        if not _holds(cells, s, a, b, size_a):
            continue
        e = s + size_a
        weight = int64(cells[2 * s + 1])
        x, y = cells[2 * (s - 1)], cells[2 * (e + size_b)]
        cells[2 * s] = z
        cells[2 * (e + size_b - 1)] = z
        if size_a > 1:
            cells[2 * (e - 1)] = INSIDE
        if size_b > 1:
            cells[2 * e] = INSIDE
        positions[start + n_merged] = s
        n_merged += 1
        if x >= 0 and x != z:
            if tally[x, LOST] == 0:
                near[0, n_left] = x
                n_left += 1
            tally[x, LOST] += weight
        if y >= 0:
            if tally[y, LOST + 1] == 0:
                near[1, n_right] = y
                n_right += 1
            tally[y, LOST + 1] += weight
    return n_merged, n_left, n_right


@inlined
def _neighbours(cells: Any, merged: Any, size: Any, z: Any, tally: Any, near: Any) -> Any:
    """Tally which pairs appear beside the token z; returns how many neighbours near[0] and near[1] name."""
    n_left = n_right = int64(0)
    for t in range(merged.size):
        if t + AHEAD < merged.size:
            prefetch(cells, 2 * int64(merged[t + AHEAD]))
        s = int64(merged[t])
        weight = int64(cells[2 * s + 1])
        x, y = cells[2 * (s - 1)], cells[2 * (s + size)]
        if x >= 0 and x != z:
            if tally[x, N_WON] == 0:
                near[0, n_left] = x
                n_left += 1
            tally[x, WON] += weight
            tally[x, N_WON] += 1
        if y >= 0:
            if tally[y, N_WON + 1] == 0:
                near[1, n_right] = y
                n_right += 1
            tally[y, WON + 1] += weight
            tally[y, N_WON + 1] += 1
    return n_left, n_right


@inlined
def _enter_positions(cells: Any, merged: Any, size: Any, z: Any, sizes: Any, tally: Any, positions: Any) -> Any:
    """Write the positions of the pairs that appeared to the places that the tallies name."""
    for t in range(merged.size):
        if t + AHEAD < merged.size:
            prefetch(cells, 2 * int64(merged[t + AHEAD]))
        s = int64(merged[t])
        x, y = cells[2 * (s - 1)], cells[2 * (s + size)]
        if x >= 0 and x != z:
            positions[tally[x, AT]] = s - sizes[x]
            tally[x, AT] += 1
        if y >= 0:
            positions[tally[y, AT + 1]] = s
            tally[y, AT + 1] += 1


@compiled
def learn_merges(
    cells: Any, pairs: Any, table: Any, positions: Any,
    n_symbols: Any, vocab_size: Any, min_count: Any, ties: Any, control: Any,
) -> Any:  # fmt: skip
    """Merge pairs until there are `vocab_size` tokens or no pair occurs `min_count` times.

    cells: what `lay_out` makes, of tokens below n_symbols, no two of them spelt alike; it is used up. pairs, table,
    positions: room, int64 [any, 4], int32 [2**k] of -1, and int32 [3 n]: each merged occurrence takes a symbol away and
    adds at most two positions.
    min_count: at least 1. control: int64 (tokens so far, for others to read; not 0: stop). Returns the merges in order,
    int32 [m, 2]: left, right; the i-th makes the token n_symbols + i.
    """
    sizes = np.empty(vocab_size, np.int32)  # cells of each token
    sizes[:n_symbols] = 1
    pairs, n_pairs, table, n_positions = _count_pairs(cells, cells.size // 2, pairs, table, positions)
    heap = np.empty((1 << 16, 3), np.int64)  # count, tie, pair
    n_heap = int64(0)
    threshold = int64(1) << 40
    merges = np.empty((vocab_size - n_symbols, 2), np.int32)
    n_tokens = int64(n_symbols)
    tally = np.zeros((vocab_size, 8), np.int64)
    near = np.empty((2, vocab_size), np.int32)
    while n_tokens < vocab_size and control[1] == 0:
        if n_heap == 0:  # let rarer pairs in
            if threshold <= min_count:
                break
            most = int64(0)
            for q in range(n_pairs):
                most = max(most, pairs[q, COUNT])
            threshold = max(most // 4, min_count)
            for q in range(n_pairs):
                if pairs[q, COUNT] >= threshold:
                    heap = _push(heap, n_heap, pairs[q, COUNT], _tie(cells, positions, pairs, sizes, q, ties), q)
                    n_heap += 1
            continue
        k = heap[0, 2]
        count, tie = pairs[k, COUNT], heap[0, 1]
        if ties == FIRST_PLACE and count >= threshold:
            tie = _tie(cells, positions, pairs, sizes, k, ties)
        if count != heap[0, 0] or tie != heap[0, 1]:
            if count >= threshold:
                _sift(heap, n_heap, count, tie, k)
            else:  # it comes back when the threshold sinks
                n_heap -= 1
                _sift(heap, n_heap, heap[n_heap, 0], heap[n_heap, 1], heap[n_heap, 2])
            continue
        n_heap -= 1
        _sift(heap, n_heap, heap[n_heap, 0], heap[n_heap, 1], heap[n_heap, 2])

        a, b, z = pairs[k, KEY] >> 32, pairs[k, KEY] & LOW, n_tokens
        size_a, size_b = int64(sizes[a]), int64(sizes[b])
        size = size_a + size_b
        sizes[z] = size
        merges[z - n_symbols, 0], merges[z - n_symbols, 1] = a, b
        n_tokens += 1
        control[0] = n_tokens

        start, n = pairs[k, START], pairs[k, SIZE]
        n_merged, n_left, n_right = _rewrite(cells, positions, start, n, a, b, size_a, size_b, z, tally, near)
        merged = positions[start : start + n_merged]
        for i in range(n_left + n_right):
            side = int64(i >= n_left)
            other = int64(near[side, i - side * n_left])
            key = (b << 32) | other if side else (other << 32) | a
            pairs[table[_slot(table, pairs, key)], COUNT] -= tally[other, LOST + side]
            tally[other, LOST + side] = 0
        pairs[k, COUNT] = pairs[k, SIZE] = 0

        n_left, n_right = _neighbours(cells, merged, size, z, tally, near)
        if n_pairs + n_left + n_right > pairs.shape[0]:
            pairs = _taller(pairs, 2 * (n_pairs + n_left + n_right))
        if 2 * (n_pairs + n_left + n_right) > table.size:
            table = _rehashed(pairs, n_pairs, 4 * table.size)
        for i in range(n_left + n_right):
            side = int64(i >= n_left)
            other = int64(near[side, i - side * n_left])
            gain, n_gained = tally[other, WON + side], tally[other, N_WON + side]
            tally[other, WON + side] = tally[other, N_WON + side] = 0
            tally[other, AT + side] = n_positions
            key = (z << 32) | other if side else (other << 32) | z
            pairs[n_pairs, KEY], pairs[n_pairs, COUNT] = key, gain
            pairs[n_pairs, START], pairs[n_pairs, SIZE] = n_positions, n_gained
            table[_slot(table, pairs, key)] = n_pairs
            n_positions += n_gained
            if gain >= threshold:
                # Its positions are not entered yet: -1 has the pair looked at before it is believed.
                heap = _push(heap, n_heap, gain, key if ties == LEAST_PAIR else int64(-1), n_pairs)
                n_heap += 1
            n_pairs += 1
        _enter_positions(cells, merged, size, z, sizes, tally, positions)
    return merges[: n_tokens - n_symbols]
