"""Whole networks equal Hugging Face's on copied random weights; caches change nothing; nothing leaks past a mask."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from diptych.core.config import RopeScaling, TransformerConfig
from diptych.models.cost import parameters_by_part
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_network, initialize
from diptych.nn.masks import Causal, Documents, Full
from diptych.presets import PRESETS

CLOSE = {"rtol": 0, "atol": 1e-5}


def make(config: TransformerConfig, seed: int = 0) -> LanguageModel:
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(seed)
    initialize(model, generator)
    with torch.no_grad():  # larger than trained networks start from, so that attention is not nearly uniform
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def llama_weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Our weights under Hugging Face's Llama names."""
    config, state = model.config, {}
    state["model.embed_tokens.weight"] = model.embedding.weight
    state["model.norm.weight"] = model.final_norm.weight
    state["lm_head.weight"] = model.unembedding
    rows = [n * config.head_width for n in (config.n_heads, config.kv_heads, config.kv_heads)]
    for i, block in enumerate(model.blocks):
        prefix = f"model.layers.{i}."
        for name, part in zip("qkv", block.attention.input.weight.split(rows), strict=True):
            state[f"{prefix}self_attn.{name}_proj.weight"] = part
        gate, up = block.feed_forward.input.weight.chunk(2)
        state[prefix + "self_attn.o_proj.weight"] = block.attention.output.weight
        state[prefix + "mlp.gate_proj.weight"] = gate
        state[prefix + "mlp.up_proj.weight"] = up
        state[prefix + "mlp.down_proj.weight"] = block.feed_forward.output.weight
        state[prefix + "input_layernorm.weight"] = block.attention_norm.weight
        state[prefix + "post_attention_layernorm.weight"] = block.feed_forward_norm.weight
    return state


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_llama_equals_hugging_face(tied: bool, scaled: bool) -> None:
    scaling = RopeScaling(factor=4.0, original_max_length=32) if scaled else None
    ours = make(
        TransformerConfig(
            vocab_size=99,
            d_model=64,
            n_layers=3,
            n_heads=4,
            n_kv_heads=2,
            d_ff=96,
            max_length=64,
            rope_theta=500.0,
            rope_scaling=scaling,
            tied_embedding=tied,
        )
    )
    rope = {"rope_type": "default", "rope_theta": 500.0}
    if scaled:
        rope = {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=99,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=96,
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            tie_word_embeddings=tied,
        )
    ).eval()
    theirs.load_state_dict(llama_weights(ours))
    tokens = torch.randint(99, (2, 40))
    torch.testing.assert_close(ours(tokens, mask=Causal()), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


def test_gpt2_equals_hugging_face() -> None:
    ours = make(dataclasses.replace(PRESETS["gpt2-tiny"], vocab_size=99, d_model=64, n_layers=3))
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=64, n_layer=3, n_head=4, n_positions=256)).eval()
    state = {
        "transformer.wte.weight": ours.embedding.weight,
        "transformer.wpe.weight": ours.position_embedding.weight,
        "transformer.ln_f.weight": ours.final_norm.weight,
        "transformer.ln_f.bias": ours.final_norm.bias,
        "lm_head.weight": ours.unembedding,
    }
    for i, block in enumerate(ours.blocks):
        parts = {
            "ln_1": block.attention_norm,
            "attn.c_attn": block.attention.input,
            "attn.c_proj": block.attention.output,
            "ln_2": block.feed_forward_norm,
            "mlp.c_fc": block.feed_forward.input,
            "mlp.c_proj": block.feed_forward.output,
        }
        for name, module in parts.items():
            # GPT-2's Conv1D keeps its matrices transposed.
            state[f"transformer.h.{i}.{name}.weight"] = module.weight.T if module.weight.dim() == 2 else module.weight
            state[f"transformer.h.{i}.{name}.bias"] = module.bias
    theirs.load_state_dict(state)
    tokens = torch.randint(99, (2, 50))
    torch.testing.assert_close(ours(tokens, mask=Causal()), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


KINDS = {
    "rope": TransformerConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, max_length=48),
    "learned": TransformerConfig(
        vocab_size=50, d_model=32, n_layers=2, norm="layer", position="learned", max_length=48
    ),
    "sinusoidal": TransformerConfig(
        vocab_size=50, d_model=32, n_layers=2, norm_placement="post", position="sinusoidal", max_length=48
    ),
    "alibi": TransformerConfig(vocab_size=50, d_model=32, n_layers=2, position="alibi", max_length=48),
    "none": TransformerConfig(vocab_size=50, d_model=32, n_layers=2, position="none", max_length=48),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_does_not_move_the_past_by_one_bit(kind: str) -> None:
    model = make(KINDS[kind])
    tokens = torch.randint(50, (2, 20))
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 7) % 50
    before, after = model(tokens, mask=Causal()), model(changed, mask=Causal())
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-3)
    assert not torch.allclose(model(tokens, mask=Full())[:, :12], model(changed, mask=Full())[:, :12], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_equal_each_alone(kind: str) -> None:
    model = make(KINDS[kind])
    documents = [torch.randint(50, (1, n)) for n in (5, 9, 3)]
    ids = torch.cat([torch.full((1, d.shape[1]), i) for i, d in enumerate(documents)], 1)
    positions = torch.cat([torch.arange(d.shape[1]) for d in documents])[None]
    packed = model(torch.cat(documents, 1), mask=Causal() & Documents(ids), positions=positions)
    alone = torch.cat([model(d, mask=Causal()) for d in documents], 1)
    torch.testing.assert_close(packed, alone, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached(kind: str) -> None:
    model = make(KINDS[kind])
    tokens = torch.randint(50, (3, 30))
    whole = model(tokens, mask=Causal())
    cache = model.new_cache(3, 48)
    parts = [model(tokens[:, a:b], mask=Causal(), cache=cache) for a, b in ((0, 11), (11, 12), (12, 13), (13, 30))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_different_lengths_share_a_cache(kind: str) -> None:
    model = make(KINDS[kind])
    lengths = torch.tensor([4, 9, 7])
    tokens = torch.randint(50, (3, 14))
    whole = model(tokens, mask=Causal())
    cache = model.new_cache(3, 48)
    model(tokens[:, :9], mask=Causal(), cache=cache)  # rows 0 and 2 hold padding past their length
    cache.set_lengths(lengths)
    for step in range(5):
        column = lengths + step
        logits = model(tokens.gather(1, column[:, None]), mask=Causal(), cache=cache)
        torch.testing.assert_close(logits[:, 0], whole[torch.arange(3), column], **CLOSE)
    cache.select(torch.tensor([2, 2]))
    assert cache.lengths.tolist() == [12, 12]
    logits = model(tokens[[2, 2], 12:13], mask=Causal(), cache=cache)
    torch.testing.assert_close(logits[:, 0], whole[[2, 2], 12], **CLOSE)


def test_checkpointed_activations_give_the_same_gradients() -> None:
    model = make(KINDS["rope"]).train()
    tokens = torch.randint(50, (2, 20))
    gradients = []
    for checkpointed in (False, True):
        model.checkpoint_activations = checkpointed
        model.zero_grad()
        model(tokens, mask=Causal()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("llama-3")])
def test_parameters_are_counted_without_building(name: str) -> None:
    config = dataclasses.replace(PRESETS[name], vocab_size=PRESETS[name].vocab_size or 4096)
    with torch.device("meta"):
        model = build_network(config)
    assert sum(parameters_by_part(config).values()) == sum(p.numel() for p in model.parameters())


def test_published_presets_have_the_published_sizes() -> None:
    assert sum(parameters_by_part(PRESETS["gpt2"]).values()) == 124_439_808
    assert sum(parameters_by_part(PRESETS["llama-3"]).values()) == 8_030_261_248
    assert sum(parameters_by_part(PRESETS["llama-3-1b"]).values()) == 1_235_814_400


def test_too_long_a_sequence_is_refused() -> None:
    model = make(KINDS["learned"])
    with pytest.raises(ValueError, match="49 tokens are more than the 48"):
        model(torch.zeros(1, 49, dtype=torch.long), mask=Causal())
    with pytest.raises(ValueError, match="cache holds 4"):
        model(torch.zeros(1, 5, dtype=torch.long), mask=Causal(), cache=model.new_cache(1, 4))
