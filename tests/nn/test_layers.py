"""Layers against torch.nn's own and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diptych.core.config import TransformerConfig
from diptych.nn.attention import MultiHeadAttention, attention
from diptych.nn.block import Block
from diptych.nn.embedding import TokenEmbedding, unembed
from diptych.nn.feed_forward import FeedForward
from diptych.nn.lowering import Lowered, lower
from diptych.nn.masks import Causal
from diptych.nn.normalization import LayerNorm, RMSNorm
from diptych.nn.positions import rope_frequencies, rotation

CLOSE = {"rtol": 0, "atol": 1e-5}


def test_layer_norm_equals_torch() -> None:
    ours, theirs = LayerNorm(24), nn.LayerNorm(24)
    for a, b in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        a.data = b.data = torch.randn(24)
    x = torch.randn(3, 5, 24) * 4 + 1
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_rms_norm_equals_torch() -> None:
    ours, theirs = RMSNorm(24), nn.RMSNorm(24, eps=1e-5)
    ours.weight.data = theirs.weight.data = torch.randn(24)
    x = torch.randn(3, 5, 24) * 4 + 1
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_embedding_and_unembedding_equal_torch() -> None:
    ours, theirs = TokenEmbedding(11, 6, scaled=True), nn.Embedding(11, 6)
    ours.weight.data = theirs.weight.data = torch.randn(11, 6)
    tokens = torch.randint(11, (2, 7))
    torch.testing.assert_close(ours(tokens), theirs(tokens) * 6**0.5, **CLOSE)
    states = torch.randn(2, 7, 6)
    torch.testing.assert_close(unembed(states, ours.weight), states @ ours.weight.T, **CLOSE)


def _torch_attention(ours: MultiHeadAttention, d_model: int, heads: int) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(d_model, heads, batch_first=True)
    nn.init.normal_(ours.input.bias)
    nn.init.normal_(ours.output.bias)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.input.weight.data, ours.input.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.output.weight.data, ours.output.bias.data
    return theirs


def test_masked_self_attention_equals_torch() -> None:
    ours = MultiHeadAttention(TransformerConfig(d_model=24, n_heads=4, bias=True))
    theirs = _torch_attention(ours, 24, 4)
    x = torch.randn(2, 9, 24)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected = theirs(x, x, x, attn_mask=hidden, need_weights=False)[0]
    torch.testing.assert_close(ours(x, Lowered(causal=True)), expected, **CLOSE)
    torch.testing.assert_close(ours(x, Lowered(dense=~hidden[None, None])), expected, **CLOSE)


def test_cross_attention_equals_torch() -> None:
    ours = MultiHeadAttention(TransformerConfig(d_model=24, n_heads=4, bias=True))
    theirs = _torch_attention(ours, 24, 4)
    x, z = torch.randn(2, 5, 24), torch.randn(2, 8, 24)
    expected = theirs(x, z, z, need_weights=False)[0]
    torch.testing.assert_close(ours(x, Lowered(), context=z), expected, **CLOSE)


@pytest.mark.parametrize("queries", [1, 6])
@pytest.mark.parametrize("dense", [False, True])
def test_grouped_queries_equal_repeated_heads(queries: int, dense: bool) -> None:
    query, key, value = torch.randn(2, 6, queries, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    allowed = (torch.rand(2, 1, queries, 6) < 0.7) | (torch.arange(6) == 0)
    scores = query @ key.repeat_interleave(3, 1).transpose(-1, -2) / 8**0.5
    if dense:
        scores = scores.masked_fill(~allowed, float("-inf"))
    expected = scores.softmax(-1) @ value.repeat_interleave(3, 1)
    ours = attention(query, key, value, Lowered(dense=allowed if dense else None))
    torch.testing.assert_close(ours, expected, **CLOSE)


@pytest.mark.parametrize("length", [7, 150])
def test_compiled_attention_equals_eager_for_every_mask(length: int) -> None:
    compiled = torch.compile(attention, dynamic=False)
    for heads in (2, 6):
        query = torch.randn(2, 6, length, 8)
        key, value = torch.randn(2, 2, heads, length, 8)
        triangle = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        bias = torch.randn(1, 6, length, length).masked_fill(~triangle, float("-inf"))
        for mask in (Lowered(), Lowered(causal=True), Lowered(dense=triangle), Lowered(dense=bias)):
            expected = attention(query, key, value, mask)
            torch.testing.assert_close(compiled(query, key, value, mask), expected, **CLOSE)


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh"])
def test_feed_forward_equals_torch(kind: str) -> None:
    ours = FeedForward(TransformerConfig(d_model=12, n_heads=2, feed_forward=kind, bias=True))
    activation = {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh")}[kind]
    theirs = nn.Sequential(ours.input, activation, ours.output)
    x = torch.randn(3, 12)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_swiglu_equals_its_formula() -> None:
    layer = FeedForward(TransformerConfig(d_model=12, n_heads=2, feed_forward="swiglu"))
    gate, value = layer.input.weight.chunk(2)
    x = torch.randn(5, 12)
    z = x @ gate.T
    expected = (z / (1 + torch.exp(-z)) * (x @ value.T)) @ layer.output.weight.T
    torch.testing.assert_close(layer(x), expected, **CLOSE)


def test_post_normalized_block_equals_torch_encoder_layer() -> None:
    config = TransformerConfig(
        d_model=24, n_heads=4, d_ff=48, norm="layer", norm_placement="post", feed_forward="relu", bias=True
    )
    _compare_blocks(config, norm_first=False)


def test_pre_normalized_block_equals_torch_encoder_layer() -> None:
    config = TransformerConfig(
        d_model=24, n_heads=4, d_ff=48, norm="layer", norm_placement="pre", feed_forward="relu", bias=True
    )
    _compare_blocks(config, norm_first=True)


def _compare_blocks(config: TransformerConfig, norm_first: bool) -> None:
    ours = Block(config)
    theirs = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True, norm_first=norm_first)
    pairs = {
        "self_attn.in_proj_weight": ours.attention.input.weight,
        "self_attn.in_proj_bias": ours.attention.input.bias,
        "self_attn.out_proj.weight": ours.attention.output.weight,
        "self_attn.out_proj.bias": ours.attention.output.bias,
        "linear1.weight": ours.feed_forward.input.weight,
        "linear1.bias": ours.feed_forward.input.bias,
        "linear2.weight": ours.feed_forward.output.weight,
        "linear2.bias": ours.feed_forward.output.bias,
        "norm1.weight": ours.attention_norm.weight,
        "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.feed_forward_norm.weight,
        "norm2.bias": ours.feed_forward_norm.bias,
    }
    for parameter in pairs.values():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(pairs)
    x = torch.randn(2, 9, 24)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, Lowered(causal=True)), theirs(x, src_mask=hidden), **CLOSE)


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(d_model=8, n_heads=4, n_kv_heads=2, d_ff=12),
        TransformerConfig(d_model=8, n_heads=2, d_ff=12, norm="layer", feed_forward="gelu", bias=True),
        TransformerConfig(d_model=8, n_heads=2, d_ff=12, norm_placement="post", feed_forward="gelu_tanh"),
    ],
)
def test_gradients_equal_finite_differences(config: TransformerConfig) -> None:
    block = Block(config).double()
    turn = rotation(torch.arange(5)[None], rope_frequencies(config.head_width, 100.0, None).double(), torch.float64)
    mask = lower(Causal(), queries=5, keys=5, offset=0, slopes=None)
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    parameters = tuple(block.parameters())

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        named = dict(zip([n for n, _ in block.named_parameters()], values, strict=True))
        return torch.func.functional_call(block, named, (x, mask, turn))

    assert torch.autograd.gradcheck(run, (x, *parameters), eps=1e-6, atol=1e-6)
