"""Does another program read the GGUF files that are written here as the same network and tokenizer?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from diptych.checkpoints.gguf import chat_template_of, open_gguf
from diptych.checkpoints.gguf_export import architecture_of, write_gguf
from diptych.core.config import PositionScheme, RopeScaling, TransformerConfig
from diptych.core.events import Event, Progressed
from diptych.core.gguf import read_header
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_network, initialize
from diptych.nn.masks import Causal
from diptych.presets import PRESETS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.ends import Ends
from diptych.tokenizers.gguf import read_gguf
from diptych.tokenizers.gguf_export import gguf_metadata
from diptych.tokenizers.library import LibraryTokenizer
from diptych.tokenizers.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    from_vocabulary,
)
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.splitting import DIGITS_APART, PATTERNS, Split

TEXTS = ["It's the cat's hat; the hen then sat on 1234 mats.", "naïve Straße\n\n\tdef x(self): return self.x + 12"] * 4
SAMPLES = [*TEXTS[:2], "the hat 99 日本", "<|endoftext|>", ""]
SIZE = 300


def trained(split: Split) -> BytePairTokenizer:
    return train_bpe(TEXTS, SIZE, split=split)


@pytest.fixture(scope="module")
def tokenizer() -> BytePairTokenizer:
    return trained(Split.named("gpt2"))


def config(**changes: Any) -> TransformerConfig:
    values = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_length": 64, "vocab_size": 304}
    return TransformerConfig(**{**values, "d_ff": 96, **changes})


GPT2 = {"norm": "layer", "position": "learned", "feed_forward": "gelu_tanh", "bias": True, "n_kv_heads": None}
CONFIGS = {
    "llama": config(tied_embedding=False),
    "wide heads": config(d_head=32, rope_theta=5e5),
    "stretched": config(rope_scaling=RopeScaling(factor=8.0, original_max_length=32)),
    "linear": config(rope_scaling=RopeScaling(kind="linear", factor=2.5)),
    "yarn": config(rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_length=16)),
    "qwen2": config(qkv_bias=True, norm_eps=1e-6),
    "qwen3": config(qk_norm=True, d_head=128),  # which transformers takes for granted in GGUF files
    "gpt2": config(**GPT2, d_ff=256, max_length=1024),  # and so it does these
}
ARCHITECTURES = dict.fromkeys(("wide heads", "stretched", "linear", "yarn"), "llama")
NOT_READ = ("stretched", "linear", "yarn")
"""Rotary scaling, of which transformers takes nothing from a GGUF file."""


def network(of: TransformerConfig) -> LanguageModel:
    model = LanguageModel(of)
    generator = torch.Generator().manual_seed(2)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


@pytest.fixture(params=CONFIGS)
def case(request: pytest.FixtureRequest) -> tuple[str, LanguageModel]:
    return request.param, network(CONFIGS[request.param])


def logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids]), mask=Causal())[0]


IDS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38]


def test_round_trip(case: tuple[str, LanguageModel], tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    name, model = case
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer, file_type="F32", chat_template="{{ x }}")
    again, header = open_gguf(path)
    assert header.text("general.architecture") == ARCHITECTURES.get(name, name)
    assert again.config == model.config
    for (key, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), key
    assert torch.equal(logits(again, IDS), logits(model, IDS))
    assert chat_template_of(header) == "{{ x }}"
    same = read_gguf(path)
    assert [same.encode_list(text) for text in SAMPLES] == [tokenizer.encode_list(text) for text in SAMPLES]
    assert (same.eos_id, same.opening_id) == (tokenizer.eos_id, tokenizer.opening_id)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in NOT_READ])
def test_transformers_computes_the_same_logits(name: str, tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = network(CONFIGS[name])
    write_gguf(tmp_path / "model.gguf", model, tokenizer, file_type="F32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert torch.allclose(logits(model, IDS), expected, atol=1e-4)
    assert expected.abs().max() > 0.5


@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_runs_it(name: str, tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = network(CONFIGS[name])
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer, file_type="F32")
    theirs = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=2, type_k=0, type_v=0)
    for text in SAMPLES:
        expected = [tokenizer.opening_id, *tokenizer.encode_list(text)]
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == expected
    theirs.eval(IDS)
    # llama.cpp takes GELU from a table in float16.
    assert np.allclose(theirs.scores[: len(IDS)], logits(model, IDS).numpy(), atol=5e-3 if name == "gpt2" else 1e-3)


@pytest.mark.parametrize("file_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_library_reads_every_tensor(file_type: Any, tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    model = network(config(d_model=48, d_ff=96))
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer, file_type=file_type, name="A name")
    reader = gguf.GGUFReader(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == file_type
    assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    # 48 numbers in a row are no whole blocks.
    assert kinds["token_embd.weight"] == (file_type if "Q" not in file_type else "F16")
    found = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    down = model.blocks[0].feed_forward.output.weight.numpy()
    expected = gguf.quantize(down, gguf.GGMLQuantizationType[file_type])
    assert np.array_equal(
        found["blk.0.ffn_down.weight"], gguf.dequantize(expected, gguf.GGMLQuantizationType[file_type])
    )
    assert np.array_equal(found["output_norm.weight"], model.final_norm.weight.numpy())
    assert reader.fields["general.name"].contents() == "A name"
    assert (
        reader.fields["general.file_type"].contents()
        == gguf.LlamaFileType[{"F32": "ALL_F32"}.get(file_type, f"MOSTLY_{file_type}")]
    )
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)
    again, _ = open_gguf(path, dtype=torch.float32)
    assert torch.allclose(logits(again, IDS), logits(model, IDS), atol=1.0)


SPLITS = {"gpt-2": Split.named("gpt2"), "qwen2": Split.named("qwen2"), "gpt-4o": Split.named("o200k")}
SPLITS |= {"llama-bpe": Split.named("llama3"), "smollm": Split(DIGITS_APART)}


@pytest.mark.parametrize("pre", SPLITS)
def test_the_split_has_llama_cpps_name(pre: str, tmp_path: Path) -> None:
    bpe = trained(SPLITS[pre])
    written = gguf_metadata(bpe, SIZE, add_bos=True)
    assert written["tokenizer.ggml.pre"] == pre
    write_gguf(tmp_path / "model.gguf", network(config()), bpe, file_type="F32")
    again = read_gguf(tmp_path / "model.gguf")
    assert [again.encode_list(text) for text in SAMPLES] == [bpe.encode_list(text) for text in SAMPLES]


def test_words_that_are_tokens_are_taken_whole_only_where_it_makes_no_difference_or_is_said() -> None:
    def with_unreachable(split: str, whole: bool) -> BytePairTokenizer:
        # "abc" cannot be reached: "ab" merges before "bc".
        pieces = [bytes([byte]) for byte in range(256)] + [b"ab", b"bc", b"abc", b"<|endoftext|>"]
        merges = [(97, 98), (98, 99), (97, 257)]
        return BytePairTokenizer(
            pieces, merges, Split.named(split), {"<|endoftext|>": 259}, whole_pieces=whole, eos="<|endoftext|>"
        )

    names = {
        whole: gguf_metadata(with_unreachable("llama3", whole), 260, add_bos=True)["tokenizer.ggml.pre"]
        for whole in (False, True)
    }
    assert names == {False: "dbrx", True: "llama-bpe"}
    assert gguf_metadata(with_unreachable("gpt2", False), 260, add_bos=True)["tokenizer.ggml.pre"] == "gpt-2"
    with pytest.raises(ValueError, match="words that are tokens are taken whole"):
        gguf_metadata(with_unreachable("gpt2", True), 260, add_bos=True)


def test_ids_that_no_token_has_are_unused(tokenizer: BytePairTokenizer) -> None:
    written = gguf_metadata(tokenizer, SIZE + 4, add_bos=False)
    types = written["tokenizer.ggml.token_type"]
    assert isinstance(types, np.ndarray)
    assert types.tolist()[-5:] == [gguf.TokenType.CONTROL] + [gguf.TokenType.UNUSED] * 4
    assert written["tokenizer.ggml.tokens"][-2:] == ["[PAD302]", "[PAD303]"]
    assert written["tokenizer.ggml.add_bos_token"] is False


def sentencepiece_tokenizer(prefix: bool) -> LibraryTokenizer:
    """Pieces and scores as SentencePiece's training gives them, with bytes."""
    merged = ["he", "▁t", "▁the", "at", "in", "▁c", "▁cat", "hat", "s", "an", "▁a", "▁man", "er", "e", "th"]
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyz.,'ï") - set(merged))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *letters, "<tool>"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(merged) + len(letters)), USER_DEFINED]
    scores = [-float(max(0, token - 258)) for token in range(len(pieces))]
    vocabulary = Vocabulary(kind="bpe", pieces=pieces, scores=scores, types=types, add_dummy_prefix=prefix)
    return from_vocabulary(vocabulary, Ends(bos="<s>", eos="</s>"))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_round_trip(prefix: bool, tmp_path: Path) -> None:
    theirs = sentencepiece_tokenizer(prefix)
    path = tmp_path / "model.gguf"
    write_gguf(path, network(config(vocab_size=theirs.vocab_size + 3)), theirs, file_type="F32")
    same = read_gguf(path)
    texts = [*SAMPLES, "the cat sat in the hat", "a man and the <tool> then", "  two  spaces ", "é\n\t🙂"]
    assert [same.encode_list(text) for text in texts] == [theirs.encode_list(text) for text in texts]
    assert (same.eos_id, same.opening_id) == (theirs.eos_id, theirs.opening_id) == (2, 1)
    types = gguf.GGUFReader(path).fields["tokenizer.ggml.token_type"].contents()
    assert types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert types[-4:] == [USER_DEFINED, UNUSED, UNUSED, UNUSED]


@pytest.mark.parametrize("prefix", [True, False])
def test_llama_cpp_encodes_with_sentencepiece_alike(prefix: bool, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    ours = sentencepiece_tokenizer(prefix)
    path = tmp_path / "model.gguf"
    write_gguf(path, network(config(vocab_size=ours.vocab_size)), ours, file_type="F32")
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in ["the cat sat in the hat", "a man, then. an other", "  two  spaces", "é\n🙂 ïs"]:
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == [1, *ours.encode_list(text)]


def refused(of: LanguageModel, by: Any, path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        write_gguf(path, of, by, file_type="F32")
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert not list(path.parent.iterdir())
    return str(caught.value)


def test_tokenizers_that_llama_cpp_cannot_run_are_refused(tmp_path: Path) -> None:
    model, path = network(config()), tmp_path / "model.gguf"
    assert "this one is another (byte)" in refused(model, ByteTokenizer(), path)
    for split in (PATTERNS["words"], r"\w+|\W"):
        assert "llama.cpp does not know the split" in refused(model, trained(Split((split,))), path)


def test_networks_that_llama_cpp_cannot_run_are_refused(tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "norm_placement=post": {"norm_placement": "post"},
        "position=alibi": {"position": "alibi"},
        "feed_forward=gelu, bias=True": {"feed_forward": "gelu", "bias": True},
        "embedding_scale=True": {"embedding_scale": True},
        "output_bias=True": {"output_bias": True},
        "norm=none": {"norm": "none"},
        "a window of 16 of 64": {"window": 16},
        "both qkv_bias and qk_norm": {"qkv_bias": True, "qk_norm": True},
        "no dynamic rotary scaling": {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0)},
        "not with 32, 1 and 1.5": {"rope_scaling": RopeScaling(kind="yarn", factor=2.0, attention_factor=1.5)},
        "position_scheme=PositionScheme(kind='rerope'": {"position_scheme": PositionScheme(kind="rerope", window=9)},
    }
    for reason, changed in changes.items():
        assert reason in refused(network(config(**changed)), tokenizer, tmp_path / "model.gguf")
    for name in ("bert-tiny", "vanilla-2017-tiny"):
        model = build_network(dataclasses.replace(PRESETS[name], vocab_size=304))
        assert "export a Hugging Face folder" in refused(model, tokenizer, tmp_path / "model.gguf")


def test_ntk_is_written_as_the_base_that_it_is(tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    model = network(config(rope_scaling=RopeScaling(kind="ntk", factor=4.0)))
    write_gguf(tmp_path / "model.gguf", model, tokenizer, file_type="F32")
    again, _ = open_gguf(tmp_path / "model.gguf")
    assert again.config.rope_scaling is None
    assert again.config.rope_theta == pytest.approx(10_000.0 * 4.0 ** (16 / 14), rel=1e-6)
    torch.testing.assert_close(logits(again, IDS), logits(model, IDS), rtol=0, atol=1e-5)


def test_presets_have_their_architecture() -> None:
    found = {name: architecture_of(PRESETS[name]) for name in ("gpt2", "gpt2-tiny", "llama-tiny", "llama-3")}
    assert found == {"gpt2": "gpt2", "gpt2-tiny": "gpt2", "llama-tiny": "llama", "llama-3": "llama"}


def test_progress_is_told_and_an_older_file_survives_a_failure(tokenizer: BytePairTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    events: list[Event] = []
    write_gguf(path, network(config()), tokenizer, file_type="Q8_0", on_event=events.append)
    progress = [event for event in events if isinstance(event, Progressed)]
    assert progress[-1].done == progress[-1].total == len(read_header(path).tensors)
    before = path.read_bytes()

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(path, network(config()), tokenizer, file_type="F32", on_event=interrupted)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
