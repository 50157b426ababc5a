"""A block's compiled way through a single row equals its general way, and serves only what it can."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from diptych.core.config import LoraConfig, TransformerConfig
from diptych.models.language_model import LanguageModel
from diptych.models.lora import add_lora
from diptych.nn import kernels
from diptych.nn.masks import Causal

CONFIG = TransformerConfig(vocab_size=97, d_model=48, n_layers=2, n_heads=6, n_kv_heads=2, max_length=64)

pytestmark = pytest.mark.skipif(
    not kernels.worth_using(torch.get_num_threads()), reason="numba has no fast threads on this machine"
)


def network(**changes: Any) -> LanguageModel:
    model = LanguageModel(dataclasses.replace(CONFIG, **changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(mean + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.inference_mode()
def one_by_one(model: LanguageModel, ids: torch.Tensor, first: int = 4) -> torch.Tensor:
    cache = model.new_cache(ids.shape[0], ids.shape[1])
    parts = [model(ids[:, :first], mask=Causal(), cache=cache)]
    parts += [model(ids[:, i : i + 1], mask=Causal(), cache=cache) for i in range(first, ids.shape[1])]
    return torch.cat(parts, dim=1)


def served(model: LanguageModel) -> bool:
    return model.blocks[0].__dict__.pop("_one_row", None) is not None


@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": True}, {"position": "none"}, {"n_kv_heads": 6}, {"d_head": 10}, {"window": 100}]
)
def test_one_row_equals_the_whole_text_at_once(changes: dict[str, Any]) -> None:
    model = network(**changes)
    ids = torch.randint(97, (1, 40), generator=torch.Generator().manual_seed(1))
    stepped = one_by_one(model, ids)
    assert served(model)
    with torch.inference_mode():
        whole = model(ids, mask=Causal())
    torch.testing.assert_close(stepped, whole, atol=2e-5, rtol=1e-5)


def test_bfloat16_stays_as_near_to_float32_as_torch_does() -> None:
    wide = network()
    narrow = network().to(torch.bfloat16)
    ids = torch.randint(97, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = wide(ids, mask=Causal())
        torchs = narrow(ids, mask=Causal()).float()
    stepped = one_by_one(narrow, ids).float()
    assert served(narrow)
    assert (stepped - exact).abs().mean() < 1.1 * (torchs - exact).abs().mean()


def test_the_cache_holds_the_nearest_bfloat16() -> None:
    model = network().to(torch.bfloat16)
    ids = torch.randint(97, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cache = model.new_cache(1, 12)
        model(ids[:, :4], mask=Causal(), cache=cache)
        model(ids[:, 4:5], mask=Causal(), cache=cache)
        block = model.blocks[0]
        h = model.embedding(ids[:, 4:5]).float()
        normed = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + model.config.norm_eps)
        normed = normed * block.attention_norm.weight.float()
        value = (normed @ block.attention.input.weight.float().T)[0, 0, -2 * 8 :].view(2, 8)
    stored = cache.values[0, 0, :, 4]
    exact = value.to(torch.bfloat16)
    # A sum in another order may tip one that lies between two bfloat16 numbers: none is off by more than one of them.
    off = (stored.view(torch.int16).int() - exact.view(torch.int16).int()).abs()
    assert int(off.max()) <= 1
    assert int((off == 0).sum()) >= 15


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "layer", "bias": True},
        {"norm_placement": "post"},
        {"feed_forward": "gelu"},
        {"qk_norm": True},
        {"position": "alibi"},
    ],
)
def test_other_blocks_go_the_general_way(changes: dict[str, Any]) -> None:
    model = network(**changes)
    ids = torch.randint(97, (1, 12), generator=torch.Generator().manual_seed(1))
    stepped = one_by_one(model, ids)
    assert not served(model)
    with torch.inference_mode():
        torch.testing.assert_close(stepped, model(ids, mask=Causal()), atol=2e-5, rtol=1e-5)


def test_several_rows_and_adapted_layers_go_the_general_way() -> None:
    model = network()
    ids = torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(1))
    stepped = one_by_one(model, ids)
    assert not served(model)
    with torch.inference_mode():
        torch.testing.assert_close(stepped, model(ids, mask=Causal()), atol=2e-5, rtol=1e-5)
    add_lora(model, LoraConfig(rank=2), torch.Generator().manual_seed(0))
    one_by_one(model, ids[:1])
    assert not served(model)


def test_changed_weights_are_seen() -> None:
    model = network()
    ids = torch.randint(97, (1, 12), generator=torch.Generator().manual_seed(1))
    before = one_by_one(model, ids)
    with torch.no_grad():
        model.blocks[1].feed_forward.output.weight.mul_(2.0)
        model.blocks[0].attention_norm.weight = torch.nn.Parameter(2 * model.blocks[0].attention_norm.weight)
    after = one_by_one(model, ids)
    assert not torch.allclose(before, after)
    with torch.inference_mode():
        torch.testing.assert_close(after, model(ids, mask=Causal()), atol=2e-5, rtol=1e-5)
