"""How are loops compiled, and how do they reach memory eight bytes at a time or ahead of need?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

compiled: Callable[[Any], Any] = numba.njit(cache=True, nogil=True, error_model="numpy")
inlined: Callable[[Any], Any] = numba.njit(forceinline=True, error_model="numpy")
"""For helpers of `compiled` loops: typed once each, inlined by LLVM."""

pasted: Callable[[Any], Any] = numba.njit(inline="always", error_model="numpy")
"""The same for the hottest helpers with loops, which run faster where their code stands in the caller's before typing;
each use of one costs compile time anew."""

SILENT_SECONDS = 1.0
"""Loading loops from the disk takes less; compiling them takes longer and is announced."""

_first = threading.RLock()
_announced = False


@contextmanager
def announced() -> Iterator[None]:
    """Around first calls of loops, on next to nothing: where they turn out to be compiled, say once what goes on."""
    timer = threading.Timer(SILENT_SECONDS, _announce)
    timer.daemon = True
    timer.start()
    try:
        with _first:
            yield
    finally:
        timer.cancel()


def _announce() -> None:
    global _announced  # noqa: PLW0603
    if not _announced:
        _announced = True
        text = "compiling the tokenizer's loops; once on this machine, for about 20 seconds"
        logging.getLogger("diptych").warning(text)


@intrinsic
def load64(typing_context: Any, array: Any, index: Any) -> Any:
    """The eight bytes from byte `index` on of a contiguous uint8 array, little-endian, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        word = builder.load(pointer)
        word.align = 1
        return word

    return types.uint64(array, types.int64), generate


@intrinsic
def store64(typing_context: Any, array: Any, index: Any, word: Any) -> Any:
    """Write eight bytes from byte `index` on of a contiguous uint8 array, little-endian, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], pointer).align = 1
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generate


@intrinsic
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """The number of zero bits below the lowest one bit of a uint64 that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of element `index` of a contiguous array, counted over all its dimensions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(function, [pointer, *(ir.Constant(number, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@inlined
def grown(array: Any, size: Any) -> Any:
    """A copy of a one-dimensional array with room for `size` elements."""
    bigger = np.empty(size, array.dtype)
    bigger[: array.size] = array
    return bigger
