"""How is a network told the noise level and the class?

Both become one vector (Peebles and Xie 2023): features of the time through two layers, and a row of a table for the
class. In every block, the vector shifts and scales what each sublayer reads, and gates what it adds: adaLN-zero, whose
gates begin at zero, so that every block begins as the identity.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diptych.nn.linear import Linear

FEATURES = 256
"""Sines and cosines of the time."""

TIME_SCALE = 1000.0
"""A unit of time, which is ln(sigma) / 4, is to the features what a thousand steps are to DiT's."""


class Modulation(NamedTuple):
    """What the condition does to one sublayer, (b, 1, d) each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def modulations(rows: Float[Tensor, "b 6 d"]) -> tuple[Modulation, Modulation]:
    """Those of a block's two sublayers."""
    first, second = rows.chunk(2, dim=1)
    return Modulation(*first.chunk(3, dim=1)), Modulation(*second.chunk(3, dim=1))


def modulate(
    x: Float[Tensor, "b t d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b t d"]:
    """x (1 + scale) + shift."""
    return x * (1.0 + scale) + shift


def time_features(time: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
    """Cosines, then sines, of the time at frequencies from `TIME_SCALE` down to `TIME_SCALE` / 10^4, geometrically
    spaced (Ho et al. 2020): the fastest tells noise levels apart that differ by a thousandth."""
    half = FEATURES // 2
    exponent = -math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=time.device) / (half - 1)
    angle = TIME_SCALE * time.float()[:, None] * exponent.exp()
    return torch.cat((angle.cos(), angle.sin()), dim=1)


@final
class TimeEmbedding(nn.Module):
    """output(SiLU(input(features of the time)))."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.input = Linear(FEATURES, d_model)
        self.output = Linear(d_model, d_model)

    def forward(self, time: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        features = time_features(time).to(self.input.weight.dtype)
        out: Tensor = self.output(F.silu(self.input(features)))
        return out


@final
class ClassEmbedding(nn.Module):
    """A row for each class, and one more for no class in particular."""

    def __init__(self, n_classes: int, d_model: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.weight = nn.Parameter(torch.empty(n_classes + 1, d_model))

    def forward(self, labels: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        return F.embedding(labels, self.weight)
