"""How does a layer mix a token with the few before it, channel by channel?"""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diptych.nn.chunks import runs_of
from diptych.nn.mixer import Passage
from diptych.nn.precision import wide

PIECE = 512
"""Positions that a processor takes at once, so that the products of all taps stay in its caches."""


@final
class ShortConvolution(nn.Module):
    """y_t[c] = sum_{i < width} w[c, width - 1 - i] x_{t - i}[c], over the positions of the same document.

    The weight has the shape of `torch.nn.Conv1d`'s with one group a channel.
    """

    def __init__(self, channels: int, *, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, width))

    def forward(
        self, x: Float[Tensor, "b t c"], passage: Passage, before: Float[Tensor, "b w c"] | None = None
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b w c"]]:
        """The convolution, float32 at least, and the last w = width - 1 inputs of each row, zero where another document
        stood. `before` are those of the call before, which belong to the first document."""
        x = x.to(wide(x.dtype))
        w = self.weight.shape[-1] - 1
        padded = F.pad(x, (0, 0, w, 0)) if before is None else torch.cat((before.to(x.dtype), x), dim=1)
        runs = None if passage.documents is None else F.pad(runs_of(passage.documents), (w, 0))
        same = None if runs is None else _same(runs, w, x)
        y = _convolve(padded, self.weight[:, 0].T.contiguous().to(x.dtype), same)
        return y, self._last(padded, runs, passage)

    def _last(self, padded: Tensor, runs: Tensor | None, passage: Passage) -> Tensor:
        w = self.weight.shape[-1] - 1
        if passage.lengths is None:
            last = padded[:, -w:]
            return last if runs is None else last * (runs[:, -w:] == runs[:, -1:])[..., None]
        at = passage.lengths[:, None] + torch.arange(w, device=padded.device)  # row i ends at lengths[i] + w
        last = padded.gather(1, at[..., None].expand(-1, -1, padded.shape[-1]))
        if runs is not None:
            runs = runs.gather(1, at)
            last = last * (runs == runs[:, -1:])[..., None]
        return last

    def start(self, generator: torch.Generator) -> None:
        """Uniform within 1 / sqrt(width), as `torch.nn.Conv1d` starts."""
        bound = self.weight.shape[-1] ** -0.5
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)


def _same(runs: Int[Tensor, "b n"], w: int, like: Tensor) -> Float[Tensor, "w b t 1"]:
    """One where the position of a tap stands in the same document as the position that it is a tap of, else zero."""
    t = runs.shape[1] - w
    return torch.stack([(runs[:, i : i + t] == runs[:, w:])[..., None].to(like.dtype) for i in range(w)])


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over pieces
def _convolve(
    padded: Float[Tensor, "b n c"], taps: Float[Tensor, "width c"], same: Float[Tensor, "w b t 1"] | None
) -> Float[Tensor, "b t c"]:
    y: Tensor = _Convolve.apply(padded, taps, same)  # type: ignore[no-untyped-call]
    return y


class _Convolve(torch.autograd.Function):
    """y_t = sum_i taps_i same_{i, t} padded_{t + i}, piece by piece; the last tap is the position itself."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, taps: Tensor, same: Tensor | None) -> Tensor:
        w = len(taps) - 1
        y = padded[:, w:] * taps[w]
        for start, end in _pieces(y):
            for i in range(w):
                part = padded[:, start + i : end + i]
                part = part if same is None else part * same[i, :, start:end]
                y[:, start:end].addcmul_(part, taps[i])
        ctx.save_for_backward(padded, taps, same)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        padded, taps, same = ctx.saved_tensors
        of_padded, of_taps = torch.zeros_like(padded), torch.zeros_like(taps)
        for start, end in _pieces(upstream[0]):
            for i in range(len(taps)):
                part = upstream[0][:, start:end]
                part = part if same is None or i == len(same) else part * same[i, :, start:end]
                of_padded[:, start + i : end + i].addcmul_(part, taps[i])
                of_taps[i] += (part * padded[:, start + i : end + i]).sum((0, 1))
        return of_padded, of_taps, None


def _pieces(y: Tensor) -> list[tuple[int, int]]:
    t = y.shape[1]
    size = PIECE if y.device.type == "cpu" else t
    return [(start, min(start + size, t)) for start in range(0, t, size)]
