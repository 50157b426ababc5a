"""Costs from the configuration equal what is counted on the network itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych.core.config import TransformerConfig
from diptych.models.cost import cache_bytes_per_token, cost_of, matmul_parameters, training_flops_per_token
from diptych.models.encoder_decoder import EncoderDecoder
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_network
from diptych.nn.masks import Full

CONFIG = TransformerConfig(vocab_size=100, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=96, max_length=64)


@pytest.mark.parametrize("changes", [{}, {"feed_forward": "gelu", "tied_embedding": False}])
def test_flops_equal_the_counter(changes: dict[str, object]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    model = LanguageModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokens = torch.randint(100, (1, 32))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = model(tokens, mask=Full()).sum()
        forward = counter.get_total_flops()
        loss.backward()
    scores = 4 * config.n_layers * config.n_heads * config.head_width * 32
    assert forward == 32 * (2 * matmul_parameters(config) + scores)
    whole = counter.get_total_flops()
    # The first layer's input needs no gradient only where the embedding is frozen: all three products are counted.
    assert whole == pytest.approx(32 * training_flops_per_token(config, 32), rel=0.01)


def test_cache_bytes_equal_the_buffers() -> None:
    model = LanguageModel(CONFIG).to(torch.bfloat16)
    cache = model.new_cache(3, 10)
    assert cache.keys.nbytes + cache.values.nbytes == 30 * cache_bytes_per_token(CONFIG, 2)


def test_flops_of_an_encoder_decoder_equal_the_counter() -> None:
    config = dataclasses.replace(
        CONFIG, n_encoder_layers=2, norm="layer", position="sinusoidal", feed_forward="relu", bias=True
    )
    model = build_network(config)
    assert isinstance(model, EncoderDecoder)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokens, lengths = torch.randint(100, (1, 32)), torch.tensor([32])
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.given(tokens, lengths)(tokens, mask=Full())
    assert counter.get_total_flops() == 32 * cost_of(config, 32, 4).forward_flops_per_token


def test_memory_is_that_of_the_weights_and_the_cache() -> None:
    model = LanguageModel(CONFIG)
    cache = model.new_cache(1, 50)
    weights = sum(p.nbytes for p in model.parameters())
    assert cost_of(CONFIG, 50, 4).memory_bytes == weights + cache.keys.nbytes + cache.values.nbytes
    assert cost_of(CONFIG, 50, 4, cached=False).memory_bytes == weights


def test_a_window_bounds_the_attention() -> None:
    windowed = dataclasses.replace(CONFIG, window=8)
    assert cost_of(windowed, 8, 4).forward_flops_per_token == cost_of(windowed, 64, 4).forward_flops_per_token
    assert cost_of(CONFIG, 8, 4).forward_flops_per_token < cost_of(CONFIG, 64, 4).forward_flops_per_token
