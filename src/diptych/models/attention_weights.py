"""What does each position of a text attend to, in every layer and head?

The fast forms of attention never hold these weights, so they are computed once more, by the formula, from what every
layer is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.types import Mask
from diptych.models.language_model import LanguageModel
from diptych.nn.attention import MultiHeadAttention
from diptych.nn.block import Block


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionWeights:
    """softmax(Q K^T / sqrt(d) + mask) of every head, by the layer's number, the first being 0; and the kinds of the
    layers that hold no such weights."""

    by_layer: Mapping[int, Float[Tensor, "h t t"]]
    others: Mapping[int, str]


@torch.no_grad()
def self_attention_weights(model: LanguageModel, tokens: Int[Tensor, " t"], mask: Mask) -> AttentionWeights:
    """The weights of all layers of softmax attention while the model reads `tokens` under `mask`.

    It must be in evaluation mode.
    """
    given: dict[int, tuple[Any, ...]] = {}
    layers = dict(enumerate(_mixers(model)))
    others = {i: model.config.attention_of(i) for i, layer in layers.items() if layer is None}
    found = {i: layer for i, layer in layers.items() if layer is not None}
    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments, i=i: given.update({i: arguments}))
        for i, layer in found.items()
    ]
    try:
        model.states(tokens[None], mask=mask)
    finally:
        for hook in hooks:
            hook.remove()
    weights = {i: layer.written_out(*given[i][:3])[1][0] for i, layer in found.items()}
    return AttentionWeights(by_layer=weights, others=others)


def _mixers(model: LanguageModel) -> list[MultiHeadAttention | None]:
    """The softmax attention of each block; None where it mixes positions in another way."""
    mixers = [block.attention for block in model.blocks if isinstance(block, Block)]
    return [mixer if isinstance(mixer, MultiHeadAttention) else None for mixer in mixers]
