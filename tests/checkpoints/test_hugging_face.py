"""Folders of Hugging Face's checkpoints: the same logits and the same greedy tokens as `transformers`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych.checkpoints.hugging_face import open_hugging_face
from diptych.models.network import build_network
from tests.checkpoints import families


def edit(folder: Path, **values: Any) -> None:
    """Change fields of config.json; None takes a field away."""
    path = folder / "config.json"
    merged = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in merged.items() if name not in values or value != "-"}))


@pytest.mark.parametrize("name", families.FAMILIES)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = families.theirs(name)
    ours = open_hugging_face(families.save(theirs, tmp_path))
    x = families.tokens()
    expected = families.their_logits(theirs, x)
    torch.testing.assert_close(families.our_logits(ours, x, is_encoder=name == "bert"), expected, atol=1e-4, rtol=0.0)
    assert expected.abs().max() > 1  # weights that matter
    if name != "bert":
        assert families.our_continuation(ours, x, 12) == families.their_continuation(theirs, x, 12)


def test_a_window_shorter_than_the_text_hides_what_lies_before_it(tmp_path: Path) -> None:
    ours = open_hugging_face(families.save(families.theirs("mistral"), tmp_path))
    x = families.tokens(1)
    other = x.clone()
    other[0, 0] = x[0, 0] + 1
    difference = (families.our_logits(ours, x) - families.our_logits(ours, other)).abs().amax(-1)[0]
    reach = 1 + ours.config.n_layers * 4  # each of the layers sees four positions back
    assert (difference[:reach] > 0).all() and (difference[reach:] == 0).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_in_other_precisions(kind: str, tmp_path: Path) -> None:
    dtype = getattr(torch, kind)
    theirs = families.theirs("llama").to(dtype)
    families.save(theirs, tmp_path)
    ours = open_hugging_face(tmp_path)
    assert ours.unembedding.dtype == (torch.float32 if kind == "float16" else dtype)  # float16 is slow on a CPU
    wide = open_hugging_face(tmp_path, dtype=torch.float32)
    assert wide.rope is not None and wide.rope.dtype == torch.float32
    x = families.tokens()
    expected = families.their_logits(theirs.float(), x)
    torch.testing.assert_close(families.our_logits(wide, x), expected, atol=1e-4, rtol=0.0)
    if kind == "bfloat16":
        assert torch.equal(open_hugging_face(tmp_path, dtype=torch.float16).unembedding, wide.unembedding.half())


def test_several_files_and_an_index_are_one_network(tmp_path: Path) -> None:
    theirs = families.theirs("llama")
    families.save(theirs, tmp_path / "one")
    families.save(theirs, tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 2
    one, many = open_hugging_face(tmp_path / "one"), open_hugging_face(tmp_path / "many")
    for (name, left), right in zip(one.named_parameters(), many.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_rotary_fields_as_they_were_before_transformers_5(tmp_path: Path) -> None:
    theirs = families.theirs("llama, tied, stretched, wide heads")
    families.save(theirs, tmp_path)
    rope = dict(json.loads((tmp_path / "config.json").read_text())["rope_parameters"])
    theta = rope.pop("rope_theta")
    edit(tmp_path, rope_parameters="-", rope_theta=theta, rope_scaling=rope)
    x = families.tokens()
    ours = families.our_logits(open_hugging_face(tmp_path), x)
    torch.testing.assert_close(ours, families.their_logits(theirs, x), atol=1e-4, rtol=0.0)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12},
    "yarn, all fields": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 12,
        "beta_fast": 3.0,
        "beta_slow": 0.25,
        "attention_factor": 1.3,
        "truncate": True,
    },
    "yarn, DeepSeek's": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 12,
        "mscale": 2.0,
        "mscale_all_dim": 0.5,
    },
    "yarn, no factor": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 4},
}


@pytest.mark.parametrize("name", SCALINGS)
def test_logits_of_stretched_rotations_are_theirs(name: str, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    families.save(families.theirs("llama"), tmp_path)
    edit(tmp_path, max_position_embeddings=14, rope_parameters={"rope_theta": 100.0, **SCALINGS[name]})
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    x = families.tokens()  # 20 long, so that dynamic scaling sets in
    ours = open_hugging_face(tmp_path)
    torch.testing.assert_close(families.our_logits(ours, x), families.their_logits(theirs, x), atol=1e-4, rtol=0.0)
    plain = families.our_logits(build_same(ours), x)
    assert (plain - families.their_logits(theirs, x)).abs().max() > 1e-2


def build_same(model: Any) -> Any:
    """The same weights, nothing stretched."""
    plain = build_network(dataclasses.replace(model.config, rope_scaling=None)).eval()
    plain.load_state_dict(model.state_dict())
    return plain


def test_files_as_gpt2_and_bert_were_released(tmp_path: Path) -> None:
    """GPT-2 without the prefix of its names and with its causal masks, BERT with `gamma` and `beta` and a pooler."""
    x = families.tokens()
    gpt2 = families.theirs("gpt2")
    path = families.save(gpt2, tmp_path / "gpt2") / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool)}, path)
    ours = families.our_logits(open_hugging_face(tmp_path / "gpt2"), x)
    torch.testing.assert_close(ours, families.their_logits(gpt2, x), atol=1e-4, rtol=0.0)

    bert = families.theirs("bert")
    path = families.save(bert, tmp_path / "bert") / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in load_file(path).items():
        ending = ".".join(name.split(".")[-2:])
        tensors[name.replace(ending, old.get(ending, ending))] = tensor
    save_file({**tensors, "bert.pooler.dense.weight": torch.ones(16, 16)}, path)
    ours = families.our_logits(open_hugging_face(tmp_path / "bert"), x, is_encoder=True)
    torch.testing.assert_close(ours, families.their_logits(bert, x), atol=1e-4, rtol=0.0)


def test_padding_of_a_source_is_not_attended_to(tmp_path: Path) -> None:
    theirs = families.theirs("marian")
    ours = open_hugging_face(families.save(theirs, tmp_path))
    x = families.tokens()
    padded = x.clone()
    padded[1, 12:] = families.PAD
    with torch.inference_mode():
        lengths = torch.tensor([20, 12])
        mask = (torch.arange(20) < lengths[:, None]).long()
        expected = theirs(input_ids=padded, attention_mask=mask, decoder_input_ids=x).logits
        torch.testing.assert_close(ours(padded, lengths, x), expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("name", "values", "fragment"),
    [
        ("llama", {"model_type": "mamba"}, "model_type 'mamba' is not understood"),
        ("llama", {"model_type": 7}, "model_type 7 is not understood"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ("llama", {"attention_bias": True}, "attention_bias without mlp_bias"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "are quantized"),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}, "which is never run"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "'longrope'"),
        ("llama", {"rope_scaling": {"type": ["linear"], "factor": 2.0}}, "['linear']"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "lacks factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3.0}}, "linear with 'alpha'"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 1e300}}, "factor"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate = False"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 0.5}}, "beta_fast must be above"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_theta": 1.0}, "rope_theta above 1"),
        (
            "llama",
            {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0}},
            "high_freq_factor must be above low_freq_factor",
        ),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "rope_theta is -1"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers is True"),
        ("llama", {"num_hidden_layers": 3}, "describes a network of"),
        ("llama", {"num_hidden_layers": 10**9}, "describes a network of"),
        ("llama", {"hidden_size": 10**400}, "describes a network of more than"),
        ("llama", {"head_dim": 3}, "even d_head"),
        ("llama", {"head_dim": 8}, "describes a network of"),
        ("llama", {"head_dim": 2}, "but config.json asks for"),
        ("llama", {"num_key_value_heads": 3}, "no multiple of n_kv_heads=3"),
        ("llama", {"num_hidden_layers": 1}, "that the network of its config.json does not have"),
        ("llama", {"vocab_size": 20}, "but config.json asks for"),
        ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "several kinds of attention"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": "-"},
            "some layers alone",
        ),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "some layers alone"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        ("gpt2", {"n_positions": 10**12}, "describes a network of"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bert", {"is_decoder": True}, "is_decoder = True"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings = False"),
        ("marian", {"normalize_before": True}, "normalize_before = True"),
        ("marian", {"encoder_ffn_dim": 32}, "other heads or inner width"),
        ("marian", {"decoder_start_token_id": 1}, "decoder_start_token_id = 1"),
        ("marian", {"max_position_embeddings": 10**12}, "table of positions"),
    ],
)
def test_what_would_be_another_network_is_refused_in_one_line(
    name: str, values: dict[str, Any], fragment: str, tmp_path: Path
) -> None:
    families.save(families.theirs(name), tmp_path)
    edit(tmp_path, **values)
    with pytest.raises(ValueError) as caught:
        open_hugging_face(tmp_path)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = families.save(families.theirs("llama"), tmp_path) / "model.safetensors"
    tensors = load_file(path)
    key = "model.layers.0.self_attn.k_proj.weight"
    for change, fragment in [
        ({"model.layers.0.self_attn.k_proj.bias": torch.ones(8)}, "does not have"),
        ({key: torch.ones(16, 16)}, "but config.json asks for (8, 16)"),
        ({key: torch.ones(8, 16, dtype=torch.int8)}, "of type I8"),
    ]:
        save_file({**tensors, **change}, path)
        with pytest.raises(ValueError) as caught:
            open_hugging_face(tmp_path)
        assert fragment in str(caught.value)
    save_file({**{name: tensor for name, tensor in tensors.items() if name != key}, "padding": torch.ones(999)}, path)
    with pytest.raises(ValueError, match=f"lacks the tensor {key}"):
        open_hugging_face(tmp_path)
