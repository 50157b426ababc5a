"""Loops that numba compiles: matrix by row, at the speed of memory.

Compiled at their first use, in about a second each, and kept on the disk.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

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


def worth_using(n_threads: int) -> bool:
    """Run on at most `n_threads` threads; False where numba could start them only in its slow, unsafe last resort."""
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    one = np.ones(1, np.float32)
    of_float32(one[None], one, one.copy())
    return str(numba.threading_layer()) != "workqueue"
