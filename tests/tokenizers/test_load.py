"""Are damaged, foreign and hostile tokenizer files refused in one line that names what is wrong?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.core.config import TokenizerConfig
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.simple import CharacterTokenizer
from diptych.tokenizers.train import train_tokenizer


def _set(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = value

    return change


FOREIGN: dict[str, Callable[[dict[str, Any]], None]] = {
    "WordPiece": _set("model", "type", value="WordPiece"),
    "model.dropout": _set("model", "dropout", value=0.1),
    "model.byte_fallback": _set("model", "byte_fallback", value=True),
    "model.ignore_merges": _set("model", "ignore_merges", value=True),
    "model.end_of_word_suffix": _set("model", "end_of_word_suffix", value="</w>"),
    "model.surprise": _set("model", "surprise", value=1),
    "normalizer NFC": _set("normalizer", value={"type": "NFC"}),
    "pre_tokenizer Whitespace": _set("pre_tokenizer", value={"type": "Whitespace"}),
    "pre_tokenizer ByteLevel": _set("pre_tokenizer", "add_prefix_space", value=True),
    "pre_tokenizer None": _set("pre_tokenizer", value=None),
    "post_processor TemplateProcessing": _set("post_processor", value={"type": "TemplateProcessing"}),
    "decoder WordPiece": _set("decoder", value={"type": "WordPiece"}),
    "truncation": _set("truncation", value={"max_length": 5}),
    "padding": _set("padding", value={"pad_id": 0}),
    "part surprise": _set("surprise", value=1),
    "added token <pad>": lambda values: values["added_tokens"].append({"id": 999, "content": "<pad>"}),
}

DAMAGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "no model": lambda values: values.pop("model"),
    "model is a list": _set("model", value=[]),
    "no vocabulary": lambda values: values["model"].pop("vocab"),
    "vocabulary is a list": _set("model", "vocab", value=[1, 2]),
    "merges are numbers": _set("model", "merges", value=[1, 2]),
    "merges of three": _set("model", "merges", value=[["a", "b", "c"]]),
    "merges of lists": _set("model", "merges", value=[[["a"], ["b"]]]),
    "merges missing": lambda values: values["model"]["merges"].pop(3),
    "merge of unknown tokens": _set("model", "merges", value=[["?!", "€"]]),
    "merges turned around": lambda values: values["model"]["merges"].reverse(),
    "a byte missing": lambda values: values["model"]["vocab"].pop("a"),
    "bytes exchanged": lambda values: values["model"]["vocab"].update({"a": 65, "b": 64}),
    "id is a text": lambda values: values["model"]["vocab"].update({"a": "64"}),
    "id is infinite": lambda values: values["model"]["vocab"].update({"a": float("inf")}),
    "a token too many": lambda values: values["model"]["vocab"].update({"extra": 999}),
}


def _message(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_tokenizer(path)
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
        b"[]",
        b"3",
        b"{}",
        b'{"diptych": "other"}',
        b'{"diptych": "%s"}' % (b"x" * 10_000),
        b'{"diptych": "character"}',
        b'{"diptych": "character", "alphabet": 3}',
        b'{"diptych": "character", "alphabet": "aa"}',
        b'{"diptych": "character", "alphabet": "\\ud800"}',
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
    name=st.sampled_from(["model", "decoder", "pre_tokenizer", "added_tokens", "vocab", "merges"]), value=JSON_VALUES
)
def test_whatever_stands_in_a_file_it_loads_or_is_refused(
    bpe: BytePairTokenizer, tmp_path: Path, name: str, value: object
) -> None:
    place = ("model", name) if name in ("vocab", "merges") else (name,)
    path = _changed(bpe, tmp_path / "tokenizer.json", _set(*place, value=value))
    try:
        assert load_tokenizer(path).decode(load_tokenizer(path).encode("the é")) == "the é"
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["nothing", "nothing/tokenizer.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_character_outside_the_alphabet_becomes_its_bytes() -> None:
    tokenizer = CharacterTokenizer("aé")
    assert tokenizer.encode("éaü").tolist() == [257, 256, *"ü".encode()]


def test_the_alphabet_is_the_characters_of_the_text_read() -> None:
    tokenizer = train_tokenizer(["ba", "cé", "x"], TokenizerConfig(kind="character", train_bytes=5))
    assert isinstance(tokenizer, CharacterTokenizer)
    assert tokenizer.alphabet == "abcé"
    with pytest.raises(ValueError, match="train_bytes=0"):
        train_tokenizer(["ba"], TokenizerConfig(kind="character", train_bytes=0))
