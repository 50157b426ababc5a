"""The weights shown are those by which a layer really mixes: they give its output again, and are transformers' own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.checkpoints.hugging_face import open_hugging_face
from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Mask
from diptych.models.attention_weights import self_attention_weights
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.attention import MultiHeadAttention
from diptych.nn.block_sparse import cut
from diptych.nn.lowering import Lowered, lower
from diptych.nn.mask_text import parse_mask
from diptych.nn.masks import Causal, Full
from diptych.nn.positions import alibi_slopes, rope_frequencies, rotation
from tests.checkpoints.families import save, theirs, tokens

BASE = TransformerConfig(vocab_size=50, d_model=24, n_heads=4, n_layers=2, max_length=64, position="none")

CONFIGS: dict[str, TransformerConfig] = {
    "plain": BASE,
    "rotary, grouped": replace(BASE, position="rope", n_kv_heads=2),
    "normalized queries and keys": replace(BASE, position="rope", qk_norm=True, bias=True),
    "ALiBi": replace(BASE, position="alibi"),
    "window": replace(BASE, position="rope", window=5),
    "masks in turn": replace(BASE, mask=("window(3) | sinks(2)", "full")),
}


def network(config: TransformerConfig) -> LanguageModel:
    model = LanguageModel(config).double().eval()
    initialize(model, Rng(0).generator("weights"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10).add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("mask", [Causal(), Full()])
def test_weights_and_values_give_every_layers_output(name: str, mask: Mask) -> None:
    model, given, outputs = network(CONFIGS[name]), [], []

    def keep(layer: MultiHeadAttention, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        given.append((layer, arguments))
        outputs.append(output)

    for block in model.blocks:
        block.attention.register_forward_hook(keep)
    x = torch.arange(20) % 7
    found = self_attention_weights(model, x, mask)
    assert list(found.by_layer) == [0, 1] and not found.others
    for index, ((layer, (states, lowered, turn, *_)), output) in enumerate(zip(given, outputs, strict=True)):
        _, _, value = layer._project_self(states, turn)
        values = value.repeat_interleave(layer.n_heads // layer.n_kv_heads, 1)
        weights = found.by_layer[index]
        mixed = weights[None] @ values
        torch.testing.assert_close(layer.output(mixed.transpose(1, 2).flatten(2)), output, atol=1e-6, rtol=0)
        torch.testing.assert_close(layer.written_out(states, lowered, turn)[0], output, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        query, key = torch.arange(20)[None, :, None], torch.arange(20)[None, None]
        assert (weights[:, ~mask.allowed(query, key)[0]] == 0).all()
    if name == "window":
        assert (found.by_layer[0].tril(-5) == 0).all() and (found.by_layer[0].diagonal(-4, 1, 2) > 0).all()


@pytest.mark.parametrize("text", ["causal & window(5)", "causal & (window(4) | strided(3))", "window(4, 4)"])
@pytest.mark.parametrize("form", ["dense", "pieces", "flex", "alibi", "pieces of alibi"])
def test_a_mask_in_any_form_gives_the_same_weights(text: str, form: str) -> None:
    layer = MultiHeadAttention(replace(BASE, n_kv_heads=2)).double()
    x = torch.randn(1, 30, 24, dtype=torch.float64)
    mask, slopes = parse_mask(text), alibi_slopes(4).double()
    position = torch.arange(30)
    allowed = mask.allowed(position[None, :, None], position[None, None])[0]
    bias = torch.zeros(4, 30, 30, dtype=torch.float64)
    if "alibi" in form:
        bias = -slopes[:, None, None] * (position[:, None] - position).abs()
    match form:
        case "flex":
            from diptych.nn.flex import block_mask

            lowered = Lowered(flex=block_mask(mask, 30, 30, 0, "cpu"))
        case "pieces" | "pieces of alibi":
            pieces = cut(mask, queries=30, keys=30, offset=0)
            lowered = Lowered(pieces=replace(pieces, slopes=slopes if "alibi" in form else None))
        case _:
            given = slopes if form == "alibi" else None
            lowered = lower(mask, queries=30, keys=30, offset=0, slopes=given)
            assert lowered.dense is not None
    turn = rotation(position[None], rope_frequencies(6, 1e4, None), torch.float64)
    _, weights = layer.written_out(x, lowered, turn)
    query, key, _ = layer._project_self(x, turn)
    for head in range(4):
        scores = query[0, head] @ key[0, head // 2].T / 6**0.5 + bias[head]
        expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        torch.testing.assert_close(weights[0, head], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert", "mistral"])
def test_weights_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    x = tokens(rows=1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(x, output_attentions=True).attentions
    ours = open_hugging_face(save(model, tmp_path))
    assert isinstance(ours, LanguageModel)
    found = self_attention_weights(ours, x[0], Full() if name == "bert" else Causal())
    assert len(expected) == len(found.by_layer)
    for index, weights in enumerate(expected):
        torch.testing.assert_close(found.by_layer[index], weights[0], atol=2e-6, rtol=1e-5)


def test_recurrences_are_left_out_by_name() -> None:
    model = network(replace(BASE, attention=("softmax", "linear"), n_layers=3))
    found = self_attention_weights(model, torch.arange(9), Causal())
    assert list(found.by_layer) == [0, 2] and found.others == {1: "linear"}
    assert found.by_layer[2].shape == (4, 9, 9)
    assert not any(block.attention._forward_pre_hooks for block in model.blocks)
