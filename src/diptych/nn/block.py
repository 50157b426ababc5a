"""How do layers stack?

A residual block of attention (or another layer that mixes positions) and feed-forward, normalized before each sublayer
(GPT-2, Llama) or after each sum (Vaswani et al. 2017). A decoder's block may attend to an encoder's output between the
two. A denoiser's block is modulated by the noise level (Peebles and Xie 2023).
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.attention import KeysAndValues, LayerCache, MultiHeadAttention
from diptych.nn.conditioning import modulate, modulations
from diptych.nn.delta_rule import GatedDeltaAttention
from diptych.nn.feed_forward import FeedForward
from diptych.nn.linear_attention import LinearAttention
from diptych.nn.lowering import Lowered
from diptych.nn.mixer import Given, LayerState
from diptych.nn.normalization import build_norm, build_plain_norm
from diptych.nn.positions import Rotation
from diptych.nn.titans import TitansContext, TitansGate, TitansLayer
from diptych.nn.transformer_xl import TransformerXL


def build_mixer(config: TransformerConfig, layer: int) -> nn.Module:
    """How a layer of this configuration mixes positions: attention, or a `Recurrence`."""
    match config.attention_of(layer):
        case "softmax":
            return MultiHeadAttention(config)
        case "linear":
            return LinearAttention(config)
        case "gated_delta":
            return GatedDeltaAttention(config)
        case "transformer_xl":
            return TransformerXL(config)
        case "titans_context":
            return TitansContext(config)
        case "titans_gate":
            return TitansGate(config)
        case "titans_layer":
            return TitansLayer(config)


@final
class Block(nn.Module):
    """x + attention, with `cross` then x + cross-attention, then x + feed-forward; normalized as `norm_placement`
    says.

    modulated: its norms have no weights, and every call is given a modulation.
    """

    def __init__(
        self, config: TransformerConfig, *, layer: int = 0, cross: bool = False, modulated: bool = False
    ) -> None:
        super().__init__()
        self.pre = config.norm_placement == "pre"
        self.dropout = config.dropout
        self.attention_norm = build_plain_norm(config) if modulated else build_norm(config)
        self.attention = build_mixer(config, layer)
        self.cross_norm = build_norm(config) if cross else None
        self.cross_attention = MultiHeadAttention(config) if cross else None
        self.feed_forward_norm = build_plain_norm(config) if modulated else build_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        mask: Given,
        rotation: Rotation | None = None,
        cache: LayerCache | LayerState | None = None,
        *,
        context: Float[Tensor, "#b s d"] | KeysAndValues | None = None,
        context_mask: Lowered | None = None,
        modulation: Float[Tensor, "b 6 d"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """`context_mask` says which positions of the context each of x may attend to; None: all. `modulation`: shift,
        scale and gate of the attention, then of the feed-forward layer."""
        if modulation is not None:
            return self._modulated(x, mask, rotation, modulation)
        pre = self.pre
        y = self.attention_norm(x) if pre else x
        x = x + self._drop(self.attention(y, mask, rotation, cache=cache))
        if not pre:
            x = self.attention_norm(x)
        if self.cross_norm is not None and self.cross_attention is not None:
            y = self.cross_norm(x) if pre else x
            x = x + self._drop(self.cross_attention(y, context_mask or Lowered(), context=context))
            if not pre:
                x = self.cross_norm(x)
        y = self.feed_forward_norm(x) if pre else x
        x = x + self._drop(self.feed_forward(y))
        return x if pre else self.feed_forward_norm(x)

    def _modulated(self, x: Tensor, mask: Given, rotation: Rotation | None, modulation: Tensor) -> Tensor:
        """x + gate sublayer(norm(x) (1 + scale) + shift), twice."""
        first, second = modulations(modulation)
        y = modulate(self.attention_norm(x), first.shift, first.scale)
        x = x + first.gate * self._drop(self.attention(y, mask, rotation))
        y = modulate(self.feed_forward_norm(x), second.shift, second.scale)
        return x + second.gate * self._drop(self.feed_forward(y))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
