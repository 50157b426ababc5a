"""How do tokens become vectors, and vectors distributions over tokens?

Token embedding and un-embedding (*Formal Algorithms*, algorithms 1 and 7; the review's tables 1 and 2, with the slip
of table 2 mended: see docs/review.md).
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.feed_forward import activate
from diptych.nn.linear import Linear, linear
from diptych.nn.normalization import build_norm


@final
class TokenEmbedding(nn.Module):
    """Row W_e[v] for each token v, times sqrt(d_model) where `scaled`; review table 1."""

    def __init__(self, vocab_size: int, d_model: int, *, scaled: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.scale = math.sqrt(d_model) if scaled else 1.0

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        vectors = F.embedding(tokens, self.weight)
        return vectors if self.scale == 1.0 else vectors * self.scale


@final
class Unembedding(nn.Module):
    """The matrix W_u of a network whose un-embedding is not tied to its embedding."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))


@final
class HeadTransform(nn.Module):
    """A dense layer, an activation and a normalization between the last states and the un-embedding (Devlin et al.
    2019, as released)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.feed_forward
        self.dense = Linear(config.d_model, config.d_model, bias=config.bias)
        self.norm = build_norm(config)

    def forward(self, states: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        out: Tensor = self.norm(activate(self.dense(states), self.activation))
        return out


def unembed(
    states: Float[Tensor, "... d"], unembedding: Float[Tensor, "v d"], bias: Float[Tensor, " v"] | None = None
) -> Float[Tensor, "... v"]:
    """Logits W_u e, and a bias where there is one; their softmax over the last dimension is the next-token
    distribution; review table 2."""
    return linear(states, unembedding, bias)
