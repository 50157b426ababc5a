"""Attention in all its ways against the formula, PyTorch's layers, and what may not be seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diptych.core.config import TransformerConfig
from diptych.nn.attention import BLOCK, MultiHeadAttention, attention
from diptych.nn.block import Block
from diptych.nn.lowering import Lowered, lower
from diptych.nn.masks import Causal, Full, Keys, Window
from diptych.nn.normalization import RMSNorm

CONFIG = TransformerConfig(
    d_model=32, n_heads=4, norm="layer", norm_placement="post", position="none", feed_forward="relu", d_ff=48, bias=True
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention, one query at a time, in float64."""
    query, key, value = query.double(), key.double(), value.double()
    share = query.shape[1] // key.shape[1]
    out = torch.zeros_like(query)
    for h in range(query.shape[1]):
        for t in range(query.shape[2]):
            scores = key[:, h // share, : t + 1] @ query[:, h, t, :, None] / math.sqrt(query.shape[-1])
            out[:, h, t] = (torch.softmax(scores, dim=1) * value[:, h // share, : t + 1]).sum(1)
    return out


@pytest.mark.parametrize(("h", "g"), [(6, 2), (4, 4)])
@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 7])
def test_blocks_in_bfloat16_are_as_near_to_the_formula_as_the_tiled_kernel(h: int, g: int, n: int) -> None:
    query, key, value = (normal(2, heads, n, 16, seed=i).bfloat16() for i, heads in enumerate((h, g, g)))
    exact = formula(query, key, value)
    with torch.inference_mode():
        blocks = attention(query, key, value, Lowered(causal=True))
        tiled = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=h != g)
    assert (blocks - exact).abs().mean() <= 2 * (tiled - exact).abs().mean()
    assert (blocks - exact).abs().max() < 2**-6 * value.abs().max()


def test_blocks_see_nothing_of_the_future() -> None:
    query, key, value = (normal(1, 2, 3 * BLOCK, 8, seed=i).bfloat16() for i in range(3))
    at = 2 * BLOCK - 5
    with torch.inference_mode():
        before = attention(query, key, value, Lowered(causal=True))
        key[:, :, at:] += 3.0
        value[:, :, at:] -= 2.0
        after = attention(query, key, value, Lowered(causal=True))
    assert torch.equal(before[:, :, :at], after[:, :, :at])
    assert not torch.equal(before[:, :, at:], after[:, :, at:])


def test_a_block_with_a_context_equals_torchs_decoder_layer() -> None:
    block = Block(CONFIG, cross=True).double().eval()
    theirs = nn.TransformerDecoderLayer(32, 4, 48, dropout=0.0, batch_first=True, dtype=torch.float64).eval()
    pairs = [
        (block.attention.input, "self_attn.in_proj_"),
        (block.attention.output, "self_attn.out_proj."),
        (block.cross_attention.input, "multihead_attn.in_proj_"),
        (block.cross_attention.output, "multihead_attn.out_proj."),
        (block.feed_forward.input, "linear1."),
        (block.feed_forward.output, "linear2."),
        (block.attention_norm, "norm1."),
        (block.cross_norm, "norm2."),
        (block.feed_forward_norm, "norm3."),
    ]
    state = {}
    for index, (ours, name) in enumerate(pairs):
        for kind in ("weight", "bias"):
            parameter = getattr(ours, kind)
            parameter.data = normal(*parameter.shape, seed=2 * index + (kind == "bias")) * 0.3
            state[name + kind] = parameter.data
    theirs.load_state_dict(state)
    x, context, lengths = normal(3, 7, 32, seed=50), normal(3, 5, 32, seed=51), torch.tensor([5, 2, 4])
    mask = lower(Causal(), queries=7, keys=7, offset=0)
    seen = lower(Keys(lengths) & Full(), queries=7, keys=5, offset=0)
    padding = torch.arange(5) >= lengths[:, None]
    expected = theirs(
        x,
        context,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64),
        memory_key_padding_mask=padding,
    )
    torch.testing.assert_close(block(x, mask, context=context, context_mask=seen), expected, atol=1e-12, rtol=1e-12)
    projected = block.cross_attention.project(context)
    torch.testing.assert_close(block(x, mask, context=projected, context_mask=seen), expected, atol=1e-12, rtol=1e-12)


def test_norms_of_heads_make_attention_blind_to_the_scale_of_queries() -> None:
    config = TransformerConfig(d_model=32, n_heads=4, n_kv_heads=2, qk_norm=True, norm_eps=1e-12)
    layer = MultiHeadAttention(config).double()
    x = normal(1, 6, 32)
    mask = lower(Full(), queries=6, keys=6, offset=0)
    before = layer(x, mask)
    with torch.no_grad():
        layer.input.weight[: 6 * 8] *= 3.0  # queries and keys, not values
    torch.testing.assert_close(layer(x, mask), before, atol=1e-9, rtol=1e-9)
    heads = (x @ layer.input.weight.T).unflatten(-1, (-1, 8))
    query, key, value = (part.transpose(1, 2) for part in heads.split((4, 2, 2), dim=2))
    norm = RMSNorm(8, eps=1e-12).double()
    scores = norm(query) @ norm(key).repeat_interleave(2, 1).transpose(-1, -2) / math.sqrt(8)
    mixed = (scores.softmax(-1) @ value.repeat_interleave(2, 1)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, mask), mixed @ layer.output.weight.T, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("width", [1, 3, 20])
def test_a_window_allows_what_its_definition_says(width: int) -> None:
    lowered = lower(Causal() & Window(width), queries=12, keys=12, offset=0)
    assert lowered.causal == (width >= 12), "a window that hides nothing costs nothing"
    dense = torch.ones(1, 1, 12, 12).tril().bool() if lowered.dense is None else lowered.dense
    for query in range(12):
        for key in range(12):
            assert bool(dense[0, 0, query, key]) == (query - width < key <= query)
