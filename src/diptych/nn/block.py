"""How do layers stack?

A residual block of attention and feed-forward, normalized before each sublayer (GPT-2, Llama) or after each sum
(Vaswani et al. 2017).
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.attention import LayerCache, MultiHeadAttention
from diptych.nn.feed_forward import FeedForward
from diptych.nn.masks import Lowered
from diptych.nn.normalization import build_norm
from diptych.nn.positions import Rotation


@final
class Block(nn.Module):
    """x + attention, then x + feed-forward, normalized as `norm_placement` says."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre = config.norm_placement == "pre"
        self.dropout = config.dropout
        self.attention_norm = build_norm(config)
        self.attention = MultiHeadAttention(config)
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        mask: Lowered,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        if self.pre:
            x = x + self._drop(self.attention(self.attention_norm(x), mask, rotation, cache=cache))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, mask, rotation, cache=cache)))
        return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))  # type: ignore[no-any-return]

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
