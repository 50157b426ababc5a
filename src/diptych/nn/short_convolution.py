"""How does a layer mix a token with the few before it, channel by channel?"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.nn.chunks import runs_of
from diptych.nn.mixer import Passage


@final
class ShortConvolution(nn.Module):
    """y_t[c] = sum_{i < width} w[c, width - 1 - i] x_{t - i}[c], over the positions of the same document.

    The weight has the shape of `torch.nn.Conv1d`'s with one group a channel. Written as a sum of shifted products,
    which a compiler makes one pass over memory.
    """

    def __init__(self, channels: int, *, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, width))

    def forward(
        self, x: Float[Tensor, "b t c"], passage: Passage, before: Float[Tensor, "b w c"] | None = None
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b w c"]]:
        """The convolution, float32 at least, and the last w = width - 1 inputs of each row, zero where another document
        stood. `before` are those of the call before, which belong to the first document."""
        t, w = x.shape[1], self.weight.shape[-1] - 1
        padded = F.pad(x, (0, 0, w, 0)) if before is None else torch.cat((before.to(x.dtype), x), dim=1)
        wide = torch.promote_types(x.dtype, torch.float32)
        taps = self.weight[:, 0].to(wide).unbind(-1)
        runs = None if passage.documents is None else F.pad(runs_of(passage.documents), (w, 0))
        y = x * taps[w]
        for i in range(w):
            part = padded[:, i : i + t]
            if runs is not None:
                part = part * (runs[:, i : i + t] == runs[:, w:])[..., None]
            y = y + part * taps[i]
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
