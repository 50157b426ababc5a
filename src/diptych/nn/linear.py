"""How is a row multiplied by a large matrix at the speed of memory?

Generating one token multiplies one row by every matrix of a network, so its speed is that of reading the weights once.
Libraries tuned for matrix by matrix reach less than half of that on a processor; a plain loop over rows, compiled by
numba, reaches nearly all. Everything else goes to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import final

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

    def reset_parameters(self) -> None:
        """Draw the weights, where there is memory for them: what draws on the meta device takes a second to import."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        return linear(x, self.weight, self.bias)


@cache
def _kernel(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The product of a matrix of this type and a row, in float32; None where torch's own is the better choice."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    from diptych.nn import kernels

    if not kernels.worth_using(torch.get_num_threads()):
        return None
    is_wide = dtype == torch.float32
    loop = kernels.of_float32 if is_wide else kernels.of_bfloat16

    def multiply(weight: Tensor, x: Tensor) -> Tensor:
        out = torch.empty(weight.shape[0], dtype=torch.float32)
        words = weight.detach() if is_wide else weight.detach().view(torch.uint16)
        loop(words.numpy(), x.detach().float().reshape(-1).numpy(), out.numpy())
        return out

    return multiply
