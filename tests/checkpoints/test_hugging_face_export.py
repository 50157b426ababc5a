"""What is exported is loaded by `transformers` with the same logits, and comes back bit for bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.checkpoints.hugging_face import open_hugging_face
from diptych.checkpoints.hugging_face_export import export_hugging_face, family_of
from diptych.checkpoints.open import OpenedModel, open_model
from diptych.cli.main import main
from diptych.core.config import PositionScheme, RopeScaling, TransformerConfig
from diptych.core.events import Event, Progressed
from diptych.models.network import Network, build_network
from diptych.presets import preset
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from tests.checkpoints import families

SMALL = {"vocab_size": families.VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_length": 64}


def like(name: str, **values: Any) -> TransformerConfig:
    return dataclasses.replace(preset(name), **{**SMALL, **values})


CONFIGS: dict[str, tuple[str, TransformerConfig]] = {
    "llama": ("llama", like("llama-tiny")),
    "llama, stretched": (
        "llama",
        like("llama-tiny", d_head=6, tied_embedding=False, rope_scaling=RopeScaling(original_max_length=16)),
    ),
    "llama, linear": ("llama", like("llama-tiny", rope_scaling=RopeScaling(kind="linear", factor=2.5))),
    "llama, ntk": ("llama", like("llama-tiny", rope_scaling=RopeScaling(kind="ntk", factor=3.0))),
    "llama, dynamic": (
        "llama",
        like("llama-tiny", max_length=36, rope_scaling=RopeScaling(kind="dynamic", factor=3.0, original_max_length=12)),
    ),
    "qwen3, yarn": (
        "qwen3",
        like("llama-tiny", qk_norm=True, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_length=16)),
    ),
    "llama, all of yarn": (
        "llama",
        like(
            "llama-tiny",
            rope_scaling=RopeScaling(
                kind="yarn", factor=4.0, original_max_length=16, beta_fast=3.0, beta_slow=0.5, attention_factor=1.5
            ),
        ),
    ),
    "llama with biases": ("llama", like("llama-tiny", bias=True)),
    "mistral": ("mistral", like("llama-tiny", window=5)),
    "qwen2": ("qwen2", like("llama-tiny", qkv_bias=True)),
    "qwen2 with a window": ("qwen2", like("llama-tiny", qkv_bias=True, window=5)),
    "qwen3": ("qwen3", like("llama-tiny", qk_norm=True)),
    "gpt2": ("gpt2", like("gpt2-tiny")),
    "gpt2, no biases, not tied": ("gpt2", like("gpt2-tiny", bias=False, tied_embedding=False, feed_forward="relu")),
    "bert": ("bert", like("bert-tiny")),
    "vanilla": ("marian", like("vanilla-2017-tiny", n_encoder_layers=1)),
    "marian": (
        "marian",
        like("vanilla-2017-tiny", n_encoder_layers=1, position="sinusoidal_halves", output_bias=True),
    ),
}


def random_network(config: TransformerConfig) -> Network:
    model = build_network(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.2, generator=generator)
    return model


def opened(config: TransformerConfig) -> OpenedModel:
    return OpenedModel(model=random_network(config), tokenizer=ByteTokenizer())


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_it_with_the_same_logits_and_gives_it_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    import transformers

    kind, config = CONFIGS[name]
    model = opened(config)
    events: list[Event] = []
    export_hugging_face(model, tmp_path / "ours", on_event=events.append)
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["model_type"] == kind
    loader = getattr(transformers, written["architectures"][0])
    theirs, told = loader.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(told[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = families.tokens()
    expected = families.their_logits(theirs.eval(), x)
    ours = families.our_logits(model.model, x, is_encoder=kind == "bert")
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0.0)
    assert expected.abs().max() > 1
    last = [event for event in events if isinstance(event, Progressed)][-1]
    assert last.done == last.total

    theirs.save_pretrained(tmp_path / "theirs")
    opened_again = open_hugging_face(tmp_path / "theirs")
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "ntk":  # which becomes another base
        assert (opened_again.config.rope_scaling, opened_again.config.max_length) == (scaling, config.max_length)
    back = dict(opened_again.named_parameters())
    if config.position != "sinusoidal":  # whose dimensions are reordered
        for parameter_name, parameter in model.model.named_parameters():
            assert torch.equal(back.pop(parameter_name), parameter), parameter_name
        assert all(not tensor.any() for tensor in back.values())  # biases that ours lacks


@pytest.mark.parametrize("name", families.FAMILIES)
def test_their_checkpoint_opened_and_exported_is_theirs_bit_for_bit(name: str, tmp_path: Path) -> None:
    theirs = families.theirs(name)
    families.save(theirs, tmp_path / "theirs")
    model = open_hugging_face(tmp_path / "theirs")
    export_hugging_face(OpenedModel(model=model, tokenizer=ByteTokenizer()), tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key in before:
        if "token_type" not in key and "position_embeddings" not in key:
            assert torch.equal(before[key], after[key]), key
    x = families.tokens()
    torch.testing.assert_close(families.their_logits(again, x), families.their_logits(theirs, x), atol=1e-4, rtol=0.0)


def test_a_scheme_of_positions_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = opened(like("llama-tiny", position_scheme=PositionScheme(kind="rerope", window=9)))
    with pytest.raises(ValueError, match=r"^no network [^\n]+ tells positions as rerope does[^\n]+$"):
        export_hugging_face(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_precisions(tmp_path: Path) -> None:
    model = opened(like("llama-tiny"))
    export_hugging_face(model, tmp_path / "m", torch.bfloat16)
    back = open_hugging_face(tmp_path / "m")
    assert back.unembedding.dtype == torch.bfloat16
    assert torch.equal(back.unembedding, model.model.unembedding.bfloat16())
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_tokenizer_and_the_ends_come_with_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = ByteTokenizer()
    model = OpenedModel(
        model=random_network(like("llama-tiny")),
        tokenizer=tokenizer,
        stop_ids=(7, 9),
        chat_template="{{ messages[0].content }}",
    )
    export_hugging_face(model, tmp_path / "m")
    text = "Grüße, 1 2 3"
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_list(text)
    assert theirs.apply_chat_template([{"role": "user", "content": "hey"}], tokenize=False) == "hey"
    back = open_model(tmp_path / "m")
    assert back.stop_ids == (7, 9) and back.chat_template == "{{ messages[0].content }}"
    assert back.tokenizer.encode_list(text) == tokenizer.encode_list(text)
    assert back.tokenizer.eos_id == tokenizer.eos_id


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        (like("gpt2-tiny", position="alibi"), "has position=alibi together"),
        (like("llama-tiny", norm="none"), "has norm=none together"),
        (like("gpt2-tiny", n_kv_heads=2), "heads that share keys"),
        (like("llama-tiny", qkv_bias=True, qk_norm=True), "together with the rest"),
        (like("vanilla-2017-tiny", norm_placement="pre"), "has norm_placement=pre together"),
        (like("llama-tiny", feed_forward="gelu"), "has feed_forward=gelu together"),
    ],
)
def test_a_network_without_an_architecture_there_is_refused(config: TransformerConfig, fragment: str) -> None:
    with pytest.raises(ValueError) as caught:
        family_of(config)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_overwritten_or_left_half_made(tmp_path: Path) -> None:
    model = opened(like("llama-tiny"))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="is already there"):
        export_hugging_face(model, tmp_path / "there")
    assert (tmp_path / "there" / "precious.txt").read_text() == "keep me"
    unwritable = dataclasses.replace(model, tokenizer=CharacterTokenizer("abc"))
    with pytest.raises(ValueError, match="cannot be written"):
        export_hugging_face(unwritable, tmp_path / "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_hugging_face(opened(like("llama-tiny")), tmp_path / "m")
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "n"), "--dtype", "bfloat16"]) == 0
    assert open_model(tmp_path / "n").model.unembedding.dtype == torch.bfloat16
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "m.gguf")]) == 0
    back = open_model(tmp_path / "m.gguf").model
    assert torch.equal(back.unembedding, open_model(tmp_path / "m").model.unembedding)
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "q.gguf"), "--dtype", "q8_0"]) == 0
    assert main(["export", str(tmp_path / "q.gguf"), "--out", str(tmp_path / "q"), "--dtype", "float32"]) == 0
    dequantized = open_model(tmp_path / "q.gguf", dtype=torch.float32).model.unembedding
    assert torch.equal(open_model(tmp_path / "q").model.unembedding, dequantized)
    assert not torch.equal(dequantized, dequantized.bfloat16().float())  # nothing was rounded on the way
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "n")]) == 2
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "m.gguf")]) == 2
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "o"), "--dtype", "q8_0"]) == 2
    error = capsys.readouterr().err
    assert "is already there" in error and "--dtype q8_0 is for GGUF" in error
