"""Costs from the configuration equal what is counted on the network itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diptych.core.config import TransformerConfig
from diptych.models.cost import cache_bytes_per_token, matmul_parameters, training_flops_per_token
from diptych.models.language_model import LanguageModel
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
