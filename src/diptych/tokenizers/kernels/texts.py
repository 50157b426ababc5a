"""How is a short text encoded in one call that costs little?

To call a compiled loop with sixteen arrays takes numba longer than to encode a sentence. So scanning and encoding stand
here behind one C function that takes three numbers: where the addresses of all tables are kept, the text, and its size.
ctypes calls it, and releases the interpreter's lock as the loops themselves do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numpy.typing import NDArray

from diptych.tokenizers.kernels.encoding import DOCUMENT, N_OUT, encode_chunks
from diptych.tokenizers.kernels.scanning import split

TABLES = 12
"""Arrays whose addresses and sizes a context holds."""

ENDS = 10
"""The one of them that has room for the ends of all chunks: texts may have no more bytes than it has entries."""


@intrinsic
def _pointer(typing_context: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to items of a kind."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), generate


@intrinsic
def _read_only(typing_context: Any, array: Any) -> Any:
    """The same array as one that is only read: the loops are compiled for such texts already."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return types.Array(array.dtype, array.ndim, array.layout, readonly=True)(array), generate


def context_of(tables: list[NDArray[Any]], rule: tuple[int, int]) -> NDArray[np.int64]:
    """What `text_encoder` takes: address and size of each table, and the split's rule.

    tables: classes, byte_ids, byte_pairs, pairs, merged, rows, byte_pool, id_pool, state, cursor, ends, out, as the
    loops take them, C-contiguous. The context is good for as long as the tables stand where they are.
    """
    numbers = [number for table in tables for number in (table.ctypes.data, table.shape[0])]
    return np.array([*numbers, *rule], np.int64)


@cache
def text_encoder() -> Callable[[int, bytes, int], int]:
    """encode(address of the context, UTF-8 of a text, its size) -> number of tokens, or -1: the tables need more room.

    The tokens stand in the context's `out`. The first call compiles the function or loads it from the disk.
    """
    signature = types.int64(types.CPointer(types.int64), types.CPointer(types.uint8), types.int64)

    @cfunc(signature, nopython=True, cache=True, error_model="numpy")
    def encode(context: Any, data: Any, size: Any) -> Any:
        c = carray(context, 2 * TABLES + 2)
        buffer = _read_only(carray(data, size))
        rows = carray(_pointer(c[10], types.uint64), (c[11], 4))
        state = carray(_pointer(c[16], types.int64), c[17])
        cursor = carray(_pointer(c[18], types.int64), c[19])
        ends = carray(_pointer(c[20], types.int64), c[21])
        out = carray(_pointer(c[22], types.int32), c[23])
        offsets, token_offsets = np.zeros(2, np.int64), np.zeros(2, np.int64)
        offsets[1] = size
        cursor[0] = cursor[1] = 0
        state[N_OUT] = state[DOCUMENT] = 0
        classes = _read_only(carray(_pointer(c[0], types.uint8), c[1]))
        n = split(buffer, offsets, classes, (c[24], c[25]), cursor, ends)
        zero = state[DOCUMENT]  # a literal 0 would have the loops compiled once more
        done = encode_chunks(
            buffer, zero, ends, zero, n, offsets, token_offsets,
            carray(_pointer(c[2], types.int32), c[3]),
            carray(_pointer(c[4], types.int32), c[5]),
            carray(_pointer(c[6], types.uint64), c[7]),
            carray(_pointer(c[8], types.int32), c[9]),
            rows,
            carray(_pointer(c[12], types.uint8), c[13]),
            carray(_pointer(c[14], types.int32), c[15]),
            state, out,
        )  # fmt: skip
        return state[N_OUT] if done == n else -1

    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64)
    return prototype(encode.address)
