"""A GPT-2-shaped fast network, grouped heads included, equals the pre-normalized decoder of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diptych.core.config import TransformerConfig
from diptych.models.language_model import LanguageModel
from diptych.nn.attention import MultiHeadAttention
from diptych.nn.masks import Causal
from diptych.reference.attention import Head
from diptych.reference.decoder import Layer, PreNorm, decoder_transformer, gelu, gelu_tanh, relu

ACTIVATIONS = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh}


def heads_of(fast: MultiHeadAttention) -> list[Head]:
    """One reference head a query head; heads of one group share keys and values."""
    h, g, d = fast.n_heads, fast.n_kv_heads, fast.d_head
    W, b = fast.input.weight.numpy(), fast.input.bias.numpy()
    heads = []
    for i in range(h):
        group = i // (h // g)
        rows = [slice(d * row, d * (row + 1)) for row in (i, h + group, h + g + group)]
        heads.append(Head(*(part[r] for r in rows for part in (W, b))))
    return heads


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_fast_network_equals_the_pre_normalized_decoder(activation: str, kv_heads: int) -> None:
    config = TransformerConfig(
        vocab_size=13,
        d_model=16,
        n_layers=2,
        n_heads=4,
        n_kv_heads=kv_heads,
        max_length=12,
        norm="layer",
        position="learned",
        feed_forward=activation,
        bias=True,
    )
    model = LanguageModel(config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.5, generator=generator)
    layers = []
    for block in model.blocks:
        modules = (block.attention.output, block.feed_forward.input, block.feed_forward.output)
        norms = (block.attention_norm, block.feed_forward_norm)
        rest = [p.numpy() for module in (*modules, *norms) for p in (module.weight, module.bias)]
        layers.append(Layer(heads_of(block.attention), *rest, ACTIVATIONS[activation]))
    W_p = model.position_embedding.weight.numpy().T
    pre = PreNorm(model.final_norm.weight.numpy(), model.final_norm.bias.numpy(), W_p)
    x = [3, 1, 4, 1, 5, 9, 2, 6, 12, 0]
    slow = decoder_transformer(x, model.embedding.weight.numpy().T, layers, model.unembedding.numpy(), pre)
    fast = model(torch.tensor([x]), mask=Causal())[0].softmax(-1).numpy().T
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-10)
    assert np.abs(slow[:, 1:] - slow[:, :-1]).max() > 0.1  # the comparison is not one of constants
