"""How is a row multiplied by a large matrix at the speed of memory?

Generating one token multiplies one row by every matrix of a network, so its speed is that of reading the weights once.
Libraries tuned for matrix by matrix reach less than half of that on a processor; a plain loop over rows, compiled by
numba, reaches nearly all. Everything else goes to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 1 << 15
"""Matrices of fewer numbers lie in a cache, where starting the threads would cost more than it saves."""


def linear(
    x: Float[Tensor, "... i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "... o"]:
    """x weight^T + bias."""
    one_row = x.numel() == weight.shape[1] and weight.numel() >= SMALLEST
    if not one_row or torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    multiply = _kernel(weight.dtype) if x.dtype == weight.dtype and weight.is_contiguous() else None
    if multiply is None:
        return F.linear(x, weight, bias)
    out = multiply(weight, x).to(x.dtype)
    return (out if bias is None else out + bias).view(*x.shape[:-1], -1)


@final
class Linear(nn.Linear):
    """A `torch.nn.Linear` that multiplies a single row at the speed of memory."""

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        return linear(x, self.weight, self.bias)


@cache
def _kernel(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The product of a matrix of this type and a row, in float32; None where torch's own is the better choice."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    loop = _compiled()[0 if dtype == torch.float32 else 1]

    def multiply(weight: Tensor, x: Tensor) -> Tensor:
        out = torch.empty(weight.shape[0], dtype=torch.float32)
        words = weight.detach() if dtype == torch.float32 else weight.detach().view(torch.uint16)
        loop(words.numpy(), x.detach().float().reshape(-1).numpy(), out.numpy())
        return out

    import numba

    multiply(torch.zeros(2, 64, dtype=dtype), torch.zeros(64, dtype=dtype))
    # Numba's last resort among its ways to start threads is slower than torch, and not safe to call from two threads.
    return None if numba.threading_layer() == "workqueue" else multiply


@cache
def _compiled() -> tuple[Any, Any]:
    """The two loops, for float32 and for bfloat16 as 16-bit words; compiled at their first use and kept on the disk."""
    import numba
    import numpy as np

    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    options = {"parallel": True, "cache": True, "fastmath": {"reassoc", "contract", "nsz"}}

    @numba.njit(**options)
    def of_float32(weight: Any, x: Any, out: Any) -> None:
        for row in numba.prange(weight.shape[0]):
            total = np.float32(0.0)
            for column in range(weight.shape[1]):
                total += weight[row, column] * x[column]
            out[row] = total

    @numba.njit(**options)
    def of_bfloat16(weight: Any, x: Any, out: Any) -> None:
        for row in numba.prange(weight.shape[0]):
            total = np.float32(0.0)
            for column in range(weight.shape[1]):
                # A bfloat16 is the upper half of a float32.
                total += np.uint32(np.uint32(weight[row, column]) << np.uint32(16)).view(np.float32) * x[column]
            out[row] = total

    return of_float32, of_bfloat16
