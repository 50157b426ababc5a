"""How does a projection become the queries, keys and values of a neural memory?

By a short convolution and SiLU, queries and keys then of length one (Behrouz, Zhong and Mirrokni 2025, section 4.4).
Each is a cheap pass over many numbers. One function takes all of them piece by piece, so that a piece stays in a
processor's caches, writes the heads where the memory reads them, and computes anew on the way back what it did not
keep.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PIECE = 1 << 18
"""Numbers of the projection that a processor takes at once."""

TINY = 1e-18
"""Added to squared lengths, so that a vector of zeros stays one."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over pieces
def heads(
    x: Float[Tensor, "b t c"], before: Float[Tensor, "b w c"], weight: Float[Tensor, "c 1 _"], n_heads: int
) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h t d"], Float[Tensor, "b h t d"]]:
    """Queries, keys and values; `weight` is that of a `ShortConvolution`, `before` its inputs before the first."""
    taps = weight[:, 0].T.contiguous()
    query, key, value = _Heads.apply(x, before, taps, n_heads)  # type: ignore[no-untyped-call]
    return query, key, value


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor, taps: Tensor, n_heads: int) -> tuple[Tensor, ...]:
        b, t, width = x.shape
        out = [x.new_empty(b, n_heads, t, width // (3 * n_heads)) for _ in range(3)]
        for start, end in _pieces(x):
            active = F.silu(_convolve(_window(x, before, start, end), taps)).unflatten(-1, (3, n_heads, -1))
            query, key, value = (part[:, :, start:end].transpose(1, 2) for part in out)
            torch.mul(active[:, :, 0], _one_over_length(active[:, :, 0]), out=query)
            torch.mul(active[:, :, 1], _one_over_length(active[:, :, 1]), out=key)
            value.copy_(active[:, :, 2])
        ctx.save_for_backward(x, before, taps)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, before, taps = ctx.saved_tensors
        n_heads, w = upstream[0].shape[1], before.shape[1]
        of_x, of_taps, later = torch.empty_like(x), torch.zeros_like(taps), torch.zeros_like(before)
        for start, end in reversed(_pieces(x)):
            window = _window(x, before, start, end)
            y = _convolve(window, taps)
            of_active = y.new_empty(*y.shape[:2], 3, n_heads, y.shape[-1] // (3 * n_heads))
            units = F.silu(y[..., : 2 * y.shape[-1] // 3]).unflatten(-1, (2, n_heads, -1))
            of_query, of_key, of_value = (part[:, :, start:end].transpose(1, 2) for part in upstream)
            for j, of_unit in enumerate((of_query, of_key)):
                factor = _one_over_length(units[:, :, j])
                unit, to = units[:, :, j].mul_(factor), of_active[:, :, j]
                torch.addcmul(of_unit, unit, (of_unit * unit).sum(-1, keepdim=True), value=-1, out=to).mul_(factor)
            of_active[:, :, 2] = of_value
            of_y = torch.ops.aten.silu_backward(of_active.flatten(2), y)
            for i in range(w + 1):
                of_taps[i] += (of_y * window[:, i : i + end - start]).sum((0, 1))
            later = torch.cat((of_y, later), dim=1)
            _convolve(later, taps.flip(0), out=of_x[:, start:end])
            later = later[:, :w]
        of_before = _convolve(torch.cat((torch.zeros_like(later), later), dim=1), taps.flip(0))[:, :w]
        return of_x, of_before, of_taps, None


def _convolve(window: Float[Tensor, "b _ c"], taps: Float[Tensor, "_ c"], out: Tensor | None = None) -> Tensor:
    """y_t = sum over i of taps_i window_{t + i}."""
    t = window.shape[1] - len(taps) + 1
    y = torch.mul(window[:, :t], taps[0], out=out)
    for i in range(1, len(taps)):
        y.addcmul_(window[:, i : i + t], taps[i])
    return y


def _one_over_length(x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    return x.square().sum(-1, keepdim=True).add_(TINY).rsqrt_()


def _window(x: Tensor, before: Tensor, start: int, end: int) -> Tensor:
    """Positions from `start` to before `end` and the w before them."""
    w = before.shape[1]
    if start >= w:
        return x[:, start - w : end]
    return torch.cat((before[:, start:], x[:, :end]), dim=1)


def _pieces(x: Tensor) -> list[tuple[int, int]]:
    b, t, width = x.shape
    size = max(PIECE // (b * width), 16) if x.device.type == "cpu" else t
    return [(start, min(start + size, t)) for start in range(0, t, size)]
