"""Loops that numba compiles: matrix by row, at the speed of memory.

Compiled at their first use, in about a second each, and kept on the disk.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

# Sums may be reordered, which lets them run in vector registers; infinities and NaNs keep their meaning.
FAST = {"reassoc", "contract", "nsz"}


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def of_float32(weight: Any, x: Any, out: Any) -> None:
    """out[o] = sum_i weight[o, i] x[i]; all float32."""
    for row in numba.prange(weight.shape[0]):
        total = np.float32(0.0)
        for column in range(weight.shape[1]):
            total += weight[row, column] * x[column]
        out[row] = total


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def of_bfloat16(weight: Any, x: Any, out: Any) -> None:
    """The same with `weight` as the 16-bit words of bfloat16 numbers, each the upper half of a float32."""
    for row in numba.prange(weight.shape[0]):
        total = np.float32(0.0)
        for column in range(weight.shape[1]):
            total += np.uint32(np.uint32(weight[row, column]) << np.uint32(16)).view(np.float32) * x[column]
        out[row] = total


def _wide(word: Any) -> Any:
    """A weight as a float32: itself, or the number whose upper half the 16 bits of a bfloat16 are."""


def _word(number: Any, like: Any) -> Any:
    """A float32 as the type of `like`: itself, or the nearest bfloat16's bits, even ones where two are as near."""


@overload(_wide, strict=False)
def _wide_of(word: Any) -> Any:
    if isinstance(word, types.Float):
        return lambda word: word
    return lambda word: np.uint32(np.uint32(word) << np.uint32(16)).view(np.float32)


@overload(_word, strict=False)
def _word_of(number: Any, like: Any) -> Any:
    if isinstance(like, types.Float):
        return lambda number, like: number

    def nearest(number: Any, like: Any) -> Any:
        bits = np.float32(number).view(np.uint32)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return nearest


@numba.njit(cache=True, fastmath=FAST)
def _dot(row: Any, x: Any) -> Any:
    total = np.float32(0.0)
    for i in range(row.shape[0]):
        total += _wide(row[i]) * x[i]
    return total


@numba.njit(cache=True, fastmath=FAST)
def _rms(x: Any, weight: Any, eps: Any) -> Any:
    """`x` with mean square one, times `weight`."""
    scale = np.float32(1.0) / np.sqrt(_dot(x, x) / np.float32(x.shape[0]) + np.float32(eps))
    out = np.empty_like(x)
    for i in range(x.shape[0]):
        out[i] = x[i] * scale * _wide(weight[i])
    return out


@numba.njit(cache=True, fastmath=FAST)
def _turn(head: Any, cos: Any, sin: Any) -> None:
    """Rotate a head's pairs of dimensions, which lie half a head apart."""
    half = head.shape[0] // 2
    for i in range(half if cos.shape[0] else 0):
        first, second = head[i], head[i + half]
        head[i] = first * cos[i] - second * sin[i]
        head[i + half] = second * cos[i + half] + first * sin[i + half]


@numba.njit(cache=True, fastmath=FAST)
def _attend(query: Any, keys: Any, values: Any, out: Any) -> None:
    """softmax(keys query / sqrt(d)) values, of one query."""
    n, width = keys.shape
    scores = np.empty(n, np.float32)
    largest = np.float32(-np.inf)
    for t in range(n):
        scores[t] = _dot(keys[t], query) / np.sqrt(np.float32(width))
        largest = max(largest, scores[t])
    total = np.float32(0.0)
    for t in range(n):
        scores[t] = math.exp(scores[t] - largest)
        total += scores[t]
    out[:] = np.float32(0.0)
    for t in range(n):
        share = scores[t] / total
        for i in range(width):
            out[i] += share * _wide(values[t, i])


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def block_of_one_row(
    x: Any,
    cos: Any,
    sin: Any,
    attention_norm: Any,
    attention_input: Any,
    bias: Any,
    attention_output: Any,
    feed_forward_norm: Any,
    feed_forward_input: Any,
    feed_forward_output: Any,
    keys: Any,
    values: Any,
    position: Any,
    eps: Any,
) -> None:
    """A block of the Llama family on the row `x` (d,), which becomes its output; all float32 or bfloat16's words.

    cos, sin: the rotation at `position`, empty without one. bias: of queries, keys and values, or empty. keys, values
    (g, n, d_head): the cache, of which row `position` is written.
    """
    groups, _, width = keys.shape
    heads = attention_input.shape[0] // width - 2 * groups
    y = _rms(x, attention_norm, eps)
    mixed = np.empty(attention_input.shape[0], np.float32)
    for row in numba.prange(attention_input.shape[0]):
        mixed[row] = _dot(attention_input[row], y)
        if bias.shape[0]:
            mixed[row] += _wide(bias[row])
    for head in range(heads + groups):
        _turn(mixed[head * width : (head + 1) * width], cos, sin)
    for group in range(groups):
        for i in range(width):
            keys[group, position, i] = _word(mixed[(heads + group) * width + i], keys[0, 0, 0])
            values[group, position, i] = _word(mixed[(heads + groups + group) * width + i], keys[0, 0, 0])
    gathered = np.empty(heads * width, np.float32)
    for head in numba.prange(heads):
        group = head // (heads // groups)
        span = slice(head * width, (head + 1) * width)
        _attend(mixed[span], keys[group, : position + 1], values[group, : position + 1], gathered[span])
    for row in numba.prange(x.shape[0]):
        x[row] += _dot(attention_output[row], gathered)
    z = _rms(x, feed_forward_norm, eps)
    n_inner = feed_forward_output.shape[1]
    inner = np.empty(n_inner, np.float32)
    for row in numba.prange(n_inner):
        gate = _dot(feed_forward_input[row], z)
        value = _dot(feed_forward_input[n_inner + row], z)
        inner[row] = gate / (np.float32(1.0) + math.exp(-gate)) * value
    for row in numba.prange(x.shape[0]):
        x[row] += _dot(feed_forward_output[row], inner)


def worth_using(n_threads: int) -> bool:
    """Run on at most `n_threads` threads; False where numba could start them only in its slow, unsafe last resort."""
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    one = np.ones(1, np.float32)
    of_float32(one[None], one, one.copy())
    return str(numba.threading_layer()) != "workqueue"
