"""Are special tokens found in text, refused or overlooked, as tiktoken does it?"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.config import TokenizerConfig, TokenizerKind
from diptych.tokenizers.base import EOS, Tokenizer
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.splitting import PATTERNS
from diptych.tokenizers.train import train_tokenizer

from .conftest import TEXTS

NAMES = [EOS, "<|pad|>", "<|im_start|>", "the", "[a-z]+", "  "]
"""Some that hold what a regular expression would read otherwise, and plain words."""

LEARNT = train_bpe(TEXTS, 400, special_tokens=NAMES)
OURS = BytePairTokenizer(LEARNT.pieces, None, LEARNT.split, LEARNT.special_tokens)
THEIRS = tiktoken.Encoding(
    "theirs",
    pat_str=PATTERNS["gpt2"],
    mergeable_ranks={piece: token for token, piece in enumerate(OURS.ordinary) if piece},
    special_tokens=dict(LEARNT.special_tokens),
)
TEXT = st.lists(st.sampled_from([*NAMES, "<|", "|>", "endoftext", " ", "then", "\n", "é", "a", "[a-z"])).map("".join)
SOME = st.sets(st.sampled_from(NAMES))


@settings(max_examples=400, deadline=None)
@given(text=TEXT, allowed=SOME | st.just("all"), disallowed=SOME | st.just("all"))
def test_ids_and_refusals_are_tiktokens(
    text: str, allowed: Collection[str] | str, disallowed: Collection[str] | str
) -> None:
    try:
        expected = THEIRS.encode(text, allowed_special=allowed, disallowed_special=disallowed)  # type: ignore[arg-type]
    except ValueError:
        with pytest.raises(ValueError, match="holds the special token") as caught:
            OURS.encode(text, allowed_special=allowed, disallowed_special=disallowed)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        return
    ids = OURS.encode(text, allowed_special=allowed, disallowed_special=disallowed)  # type: ignore[arg-type]
    assert ids.tolist() == expected
    assert ids.dtype == np.int32
    assert OURS.decode(ids) == text


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_special_tokens_are_ordinary_text_by_default(text: str) -> None:
    expected = THEIRS.encode_ordinary(text)
    assert OURS.encode(text).tolist() == OURS.encode_list(text) == OURS.encode_batch([text])[0].tolist() == expected
    assert not set(expected) & set(OURS.special_tokens.values())


def encode_by_search(text: str, names: Collection[str], tokenizer: BytePairTokenizer) -> list[int]:
    """The leftmost name first, of several there the longest."""
    starts = [(text.find(name), -len(name), name) for name in names if name in text]
    if not starts:
        return tokenizer.encode(text).tolist()
    at, _, name = min(starts)
    rest = encode_by_search(text[at + len(name) :], names, tokenizer)
    return [*tokenizer.encode(text[:at]).tolist(), tokenizer.special_tokens[name], *rest]


def test_of_names_that_overlap_the_leftmost_and_longest_is_taken() -> None:
    names = ["<a>", "<a>b", "<a><a>", "a>b<", "b<a", "x", "xx", "xxx"]
    overlapping = train_bpe(TEXTS, 300, special_tokens=names)
    generator = random.Random(0)
    subsets = [subset for size in range(1, 5) for subset in combinations(names, size)]
    for subset in subsets:
        for _ in range(4):
            text = "".join(generator.choices(["<a>", "b", "x", "<", "a>", " ", "xx"], k=generator.randint(0, 12)))
            ids = overlapping.encode(text, allowed_special=subset)
            assert ids.tolist() == encode_by_search(text, subset, overlapping), (text, subset)
            assert overlapping.decode(ids) == text


def test_the_refusal_names_token_and_place() -> None:
    with pytest.raises(ValueError, match=r"special token '<\|pad\|>' at character 3; allow it"):
        OURS.encode("aé <|pad|>", disallowed_special="all")
    with pytest.raises(ValueError, match="holds the special token"):
        OURS.encode("<|pad|>", allowed_special={"<|pad|>"}, disallowed_special={"<|pad|>"})


@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
def test_names_that_are_none_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=r"'<\|nothing\|>' is no special token here; there are: <\|endoftext\|>, "):
        OURS.encode("a", **{argument: ["<|pad|>", "<|nothing|>"]})
    with pytest.raises(ValueError, match="named by a collection or 'all', not by 'none'"):
        OURS.encode("a", **{argument: "none"})


def test_every_kind_knows_its_end_of_document(tokenizer: Tokenizer) -> None:
    text = f"the{EOS}naïve{EOS}"
    assert tokenizer.eos_id not in tokenizer.encode(text)
    ids = tokenizer.encode(text, allowed_special={EOS}).tolist()
    assert ids.count(tokenizer.eos_id) == 2
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == text
    with pytest.raises(ValueError, match="holds the special token"):
        tokenizer.encode(text, disallowed_special="all")


def test_a_tokenizer_without_an_end_of_document_says_so() -> None:
    nameless = train_bpe(TEXTS, 300, special_tokens=())
    with pytest.raises(ValueError, match=r"no end-of-document token \(its special tokens: none\)"):
        _ = nameless.eos_id
    assert nameless.encode(EOS, disallowed_special="all").tolist() == nameless.encode(EOS).tolist()


@pytest.mark.parametrize("kind", ["byte", "character", "word", "sennrich", "wordpiece", "unigram", "bpe"])
def test_special_tokens_of_the_configuration_stand_behind_the_end_of_document_and_are_kept(
    kind: TokenizerKind, tmp_path: Path
) -> None:
    names = ("<|mask|>", "<|sep|>")
    config = TokenizerConfig(kind=kind, vocab_size=700, special_tokens=names)
    trained = train_tokenizer(TEXTS, config)
    trained.save(tmp_path / "tokenizer.json")
    for tokenizer in (trained, load_tokenizer(tmp_path / "tokenizer.json")):
        size = tokenizer.vocab_size
        assert dict(tokenizer.special_tokens) == {EOS: size - 3, "<|mask|>": size - 2, "<|sep|>": size - 1}
        assert tokenizer.eos_id == size - 3
        text = "the <|mask|> then"
        ids = tokenizer.encode(text, allowed_special={"<|mask|>"}).tolist()
        assert ids.count(size - 2) == 1
        assert (tokenizer.encode(text) != size - 2).all()
        assert tokenizer.decode(tokenizer.encode(text)) == text
    if kind in ("word", "unigram", "bpe"):
        assert trained.vocab_size <= 700
        plain = train_tokenizer(TEXTS, replace(config, special_tokens=()))
        assert trained.encode("the then").tolist() == plain.encode("the then").tolist()


@pytest.mark.parametrize("names", [("",), (EOS,), ("<|a|>", "<|a|>")])
def test_special_tokens_without_a_name_or_twice_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="empty name or one twice"):
        train_tokenizer(TEXTS, TokenizerConfig(kind="byte", special_tokens=names))
