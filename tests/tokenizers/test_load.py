"""Are damaged, foreign and hostile tokenizer files refused in one line that names what is wrong?"""

from __future__ import annotations

import base64
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizers as hf
from diptych.core.config import TokenizerConfig
from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.library import LibraryTokenizer
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.sennrich import train_sennrich
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer, WordTokenizer
from diptych.tokenizers.train import train_tokenizer

from .conftest import TEXTS


def _set(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = value

    return change


def _split(**changes: object) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False, **changes}


def _before(step: dict[str, object]) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step, values["pre_tokenizer"]]}

    return change


FOREIGN: dict[str, Callable[[dict[str, Any]], None]] = {
    "WordLevel": _set("model", "type", value="WordLevel"),
    "model.dropout": _set("model", "dropout", value=0.1),
    "model.ignore_merges": _set("model", "ignore_merges", value="yes"),
    "pre_tokenizer Sequence": _before({"type": "Sequence"}),
    "too large for a split": _before(_split(pattern={"Regex": r"[\p{L}]{99999999}"})),
    "too large": _before(_split(pattern={"Regex": "((a{1000}){1000}){1000}"})),
    "calls itself": _before(_split(pattern={"Regex": "(?:a|(?R))+"})),
    "is too large": _before(_split(pattern={"Regex": "a" * 200_000})),
    "is no regular": _before(_split(pattern={"Regex": "(?:" * 4900 + "a" + ")" * 4900})),
    "no regular expression": _before(_split(pattern={"Regex": "a("})),
    "post_processor RobertaProcessing": _set("post_processor", value={"type": "RobertaProcessing"}),
    "decoder WordPiece": _set("decoder", value={"type": "WordPiece"}),
    "part surprise": _set("surprise", value=1),
    "added token <pad>": lambda values: values["added_tokens"].append({"id": "1", "content": "<pad>"}),
    "with lstrip": lambda values: values["added_tokens"].append({"id": 380, "content": "<pad>", "lstrip": True}),
}

ELSEWHERE: dict[str, Callable[[dict[str, Any]], None]] = {
    "model.byte_fallback": _set("model", "byte_fallback", value=True),
    "model.surprise": _set("model", "surprise", value=1),
    "normalizer Lowercase": _set("normalizer", value={"type": "Lowercase"}),
    "pre_tokenizer Whitespace": _set("pre_tokenizer", value={"type": "Whitespace"}),
    "pre_tokenizer ByteLevel": _set("pre_tokenizer", "add_prefix_space", value=True),
    "ByteLevel without any split": _set("pre_tokenizer", "use_regex", value=False),
    "pre_tokenizer None": _set("pre_tokenizer", value=None),
    "pre_tokenizer Split": _before(_split(behavior="MergedWithNext")),
    "with lstrip": lambda values: values["added_tokens"].append(
        {"id": 380, "content": "<pad>", "lstrip": True, **dict.fromkeys(("single_word", "rstrip", "normalized"), False)}
        | {"special": True}
    ),
}
"""What the loops here do not do, and Hugging Face's library does."""

DAMAGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "no model": lambda values: values.pop("model"),
    "model is a list": _set("model", value=[]),
    "no vocabulary": lambda values: values["model"].pop("vocab"),
    "vocabulary is a list": _set("model", "vocab", value=[1, 2]),
    "no merges": lambda values: values["model"].pop("merges"),
    "merges are numbers": _set("model", "merges", value=[1, 2]),
    "merges are a number": _set("model", "merges", value=7),
    "merges of three": _set("model", "merges", value=[["a", "b", "c"]]),
    "merges of lists": _set("model", "merges", value=[[["a"], ["b"]]]),
    "merges of nothing": _set("model", "merges", value=[["", "a"]]),
    "merge of unknown tokens": _set("model", "merges", value=[["?!", "€"]]),
    "merge of a special token": _set("model", "merges", value=[[EOS, "a"]]),
    "merge that makes no token": _set("model", "merges", value=["q q"]),
    "a byte of a merge missing": lambda values: values["model"]["vocab"].pop("h"),
    "a token that is no bytes": lambda values: values["model"]["vocab"].update({"日": 390}),
    "id is a text": lambda values: values["model"]["vocab"].update({"a": "64"}),
    "id is a truth": lambda values: values["model"]["vocab"].update({"a": True}),
    "id is a fraction": lambda values: values["model"]["vocab"].update({"a": 64.0}),
    "id is infinite": lambda values: values["model"]["vocab"].update({"a": float("inf")}),
    "id is negative": lambda values: values["model"]["vocab"].update({"a": -1}),
    "id is huge": lambda values: values["model"]["vocab"].update({"extra": 2_000_000}),
    "id is beyond all numbers": lambda values: values["model"]["vocab"].update({"extra": 10**30}),
    "two tokens of one id": lambda values: values["model"]["vocab"].update({"extra": 300}),
    "a token at the special id": lambda values: values["model"]["vocab"].update({"extra": 379}),
    "two special tokens of one id": lambda values: values["added_tokens"].append({"id": 379, "content": "<pad>"}),
    "a special token without a name": lambda values: values["added_tokens"].append({"id": 380, "content": ""}),
    "half a character": lambda values: values["added_tokens"].append({"id": 380, "content": "\ud800"}),
}


def _message(path: Path, split: str | None = None) -> str:
    """The refusal, which is one line, and for which little memory was used."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            load_tokenizer(path, split)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))
    return text


def _changed(bpe: BytePairTokenizer, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    bpe.save(path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("part", FOREIGN)
def test_parts_that_would_change_ids_are_refused_by_name(part: str, bpe: BytePairTokenizer, tmp_path: Path) -> None:
    assert part in _message(_changed(bpe, tmp_path / "tokenizer.json", FOREIGN[part]))


@pytest.mark.parametrize("part", ELSEWHERE)
def test_parts_that_are_not_read_here_go_through_the_library(
    part: str, bpe: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _changed(bpe, tmp_path / "tokenizer.json", ELSEWHERE[part])
    opened, theirs = load_tokenizer(path), hf.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    assert isinstance(opened, LibraryTokenizer)
    for text in [*TEXTS[:4], "The Then", "", f"a{EOS} <pad>"]:
        assert opened.encode(text).tolist() == theirs.encode(text).ids
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"diptych\[subword\]") as caught:
        load_tokenizer(path)
    assert part in str(caught.value)


@pytest.mark.parametrize("part", ["truncation", "padding"])
def test_truncation_and_padding_do_not_concern_the_ids(part: str, bpe: BytePairTokenizer, tmp_path: Path) -> None:
    path = _changed(bpe, tmp_path / "tokenizer.json", _set(part, value={"max_length": 5}))
    assert load_tokenizer(path).encode(TEXTS[0]).tolist() == bpe.encode(TEXTS[0]).tolist()


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_refused(damage: str, bpe: BytePairTokenizer, tmp_path: Path) -> None:
    _message(_changed(bpe, tmp_path / "tokenizer.json", DAMAGED[damage]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": {"vocab": {}, "merges": %s}}' % (b"[" * 50_000 + b"]" * 50_000),
        b"[]",
        b"3",
        b"{}",
        b'{"model": "BPE"}',
        b'{"model": {"vocab": {"a": 1, "a": 2}, "merges": []}}',
        b'{"model": {"vocab": {"a": %s}, "merges": []}}' % (b"9" * 10_000),
        b'{"model": {"type": "WordPiece"}}',
        b'{"model": {"type": "Unigram", "vocab": []}}',
        b'{"diptych": "other"}',
        b'{"diptych": "%s"}' % (b"x" * 10_000),
        b'{"diptych": "character"}',
        b'{"diptych": "character", "alphabet": 3}',
        b'{"diptych": "character", "alphabet": "aa"}',
        b'{"diptych": "character", "alphabet": "\\ud800"}',
        b'{"diptych": "word"}',
        b'{"diptych": "word", "words": "abc"}',
        b'{"diptych": "word", "words": ["the", 3]}',
        b'{"diptych": "word", "words": ["the", "the"]}',
        b'{"diptych": "word", "words": [""]}',
        b'{"diptych": "sennrich"}',
        b'{"diptych": "sennrich", "alphabet": "", "merges": [["ab", "c"]]}',
        b'{"diptych": "sennrich", "alphabet": "\\u00e9\\u00e9", "merges": []}',
        b'{"diptych": ["byte"]}',
    ],
)
def test_files_that_are_no_tokenizer_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    _message(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        ["model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "vocab", "merges"]
    ),
    value=JSON_VALUES,
)
def test_whatever_stands_in_a_file_it_loads_or_is_refused(
    bpe: BytePairTokenizer, tmp_path: Path, name: str, value: object
) -> None:
    place = ("model", name) if name in ("vocab", "merges") else (name,)
    path = _changed(bpe, tmp_path / "tokenizer.json", _set(*place, value=value))
    try:
        tokenizer = load_tokenizer(path)
        if isinstance(tokenizer, BytePairTokenizer):  # others lose text
            assert tokenizer.decode(tokenizer.encode("the é")) == "the é"
    except ValueError as error:
        assert "\n" not in str(error)


def test_our_own_kinds_come_back(tmp_path: Path) -> None:
    words, symbols = WordTokenizer(["the", " naïve"]), train_sennrich(TEXTS, 420)
    for tokenizer in (ByteTokenizer(), CharacterTokenizer("aé"), words, symbols):
        tokenizer.save(tmp_path / "tokenizer.json")
        again = load_tokenizer(tmp_path)
        assert type(again) is type(tokenizer)
        assert again.vocab_size == tokenizer.vocab_size
        assert again.special_tokens == tokenizer.special_tokens
        assert [again.encode_list(text) for text in TEXTS] == [tokenizer.encode_list(text) for text in TEXTS]


def test_a_folder_with_one_file_is_opened_and_with_several_is_refused(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "first.tiktoken")
    assert load_tokenizer(tmp_path, "gpt2").encode(TEXTS[0]).tolist() == bpe.encode(TEXTS[0]).tolist()
    bpe.save(tmp_path / "second.tiktoken")
    assert "several tokenizers; name one" in _message(tmp_path, "gpt2")


@pytest.mark.parametrize("name", ["nothing", "nothing/tokenizer.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "some.model", "notes.txt"])
def test_other_files_are_refused_without_being_read_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"\x0a\x0e\x0a")
        file.truncate(2_000_000_000)  # a hole: no disk is used
    assert "understood are a tokenizer.json, a .tiktoken file" in _message(path)


def _ranks(pieces: list[tuple[bytes, object]]) -> bytes:
    return b"".join(base64.b64encode(piece) + f" {rank}\n".encode() for piece, rank in pieces)


ALL_BYTES: list[tuple[bytes, object]] = [(bytes([byte]), byte) for byte in range(256)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no ranks"),
        (b"\n\n", "holds no ranks"),
        (b"YQ== 0 1\n", "line 1"),
        (b"YQ==\n", "line 1"),
        (b"Y!Q= 0\n", "line 1"),
        (b"YQ= 0\n", "line 1"),
        (b"\xff\xfe 0\n", "line 1"),
        (_ranks([*ALL_BYTES, (b"ab", -1)]), "line 257"),
        (_ranks([*ALL_BYTES, (b"ab", "x")]), "line 257"),
        (_ranks([*ALL_BYTES, (b"ab", "9" * 6000)]), "line 257"),
        (_ranks([*ALL_BYTES, (b"ab", 10**30)]), "line 257"),
        (_ranks([*ALL_BYTES, (b"ab", 255)]), "line 257"),
        (_ranks([*ALL_BYTES, (b"", 256)]), "line 257"),
        (_ranks([*ALL_BYTES, (b"ab", 2_000_000)]), "gives rank 2000000, but holds only 257"),
        (_ranks([*ALL_BYTES, (b"ab", 256), (b"ab", 257)]), "names a token twice"),
        (_ranks(ALL_BYTES[:-1]), "byte 0xff has no token"),
    ],
)
def test_damaged_rank_files_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "some.tiktoken"
    path.write_bytes(content)
    assert reason in _message(path, "gpt2")


def test_a_rank_file_that_names_no_split_is_refused_with_the_remedy(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "mine.tiktoken")
    assert "--split cl100k" in _message(tmp_path / "mine.tiktoken")
    assert "did you mean o200k" in _message(tmp_path / "mine.tiktoken", "o20k")
    (tmp_path / "mine.tiktoken").rename(tmp_path / "cl100k_base.tiktoken")
    assert load_tokenizer(tmp_path / "cl100k_base.tiktoken").special_tokens["<|endofprompt|>"] == 100276


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [
        (b"", b""),
        (b"[]", b""),
        (b'{"a": 1', b""),
        (b'{"a": 0, "b": 1, "ab": 2}', b"#version: 0.2\na b c\n"),
        (b'{"a": 0, "b": 1, "ab": 2}', b"a c\n"),
        (b'{"a": 0, "b": 1}', b"a b\n"),
        (b'{"a": 0, "b": 0}', b""),
        (b'{"a": 1000000000, "b": 0}', b""),
        (b'{"a": 0}', b"\xff\xfe"),
        (b'{"a": "0"}', b""),
        (b"[" * 100_000, b""),
    ],
)
def test_damaged_vocab_and_merges_are_refused(vocab: bytes, merges: bytes, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes(vocab)
    (tmp_path / "merges.txt").write_bytes(merges)
    _message(tmp_path)


def test_a_character_outside_the_alphabet_becomes_its_bytes() -> None:
    tokenizer = CharacterTokenizer("aé")
    assert tokenizer.encode("éaü").tolist() == [257, 256, *"ü".encode()]


def test_the_alphabet_is_the_characters_of_the_text_read() -> None:
    tokenizer = train_tokenizer(["ba", "cé", "x"], TokenizerConfig(kind="character", train_bytes=5))
    assert isinstance(tokenizer, CharacterTokenizer)
    assert tokenizer.alphabet == "abcé"
    with pytest.raises(ValueError, match="train_bytes=0"):
        train_tokenizer(["ba"], TokenizerConfig(kind="character", train_bytes=0))
