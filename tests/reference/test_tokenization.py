"""Is the reference of tokenization right? Against closed examples, Hugging Face's models and plain enumeration."""

from __future__ import annotations

import itertools
import math
import random

import pytest

import tokenizers as hf
from diptych.reference.tokenization import apply_bpe, characters, learn_bpe, merged, unigram, wordpiece, words

SENTENCE = "Sun rises from the east"


def test_the_reviews_sentence() -> None:
    assert words(SENTENCE) == ["Sun", " rises", " from", " the", " east"]
    assert len(characters(SENTENCE)) == 23
    for text in (SENTENCE, "a  b\n\nc, d!", "  x "):
        assert "".join(words(text)) == "".join(characters(text)) == text


def test_runs_merge_from_the_left() -> None:
    assert merged(tuple("aaaaa"), ("a", "a")) == ("aa", "aa", "a")
    assert merged(tuple("abcab"), ("a", "b")) == ("ab", "c", "ab")


def test_equal_counts_merge_in_the_order_of_the_dictionary() -> None:
    assert learn_bpe({tuple("xy"): 1, tuple("ab"): 1}, 5) == [("x", "y"), ("a", "b")]
    assert learn_bpe({tuple("ab"): 1, tuple("xy"): 2}, 1) == [("x", "y")]
    assert learn_bpe({("a",): 3}, 5) == []


@pytest.mark.parametrize("seed", range(10))
def test_use_equals_hugging_faces_model(seed: int) -> None:
    draw = random.Random(seed)
    corpus = {tuple(draw.choices("abc", k=draw.randint(1, 8))): draw.randint(1, 5) for _ in range(20)}
    merges = learn_bpe(corpus, 12)
    vocabulary = {c: i for i, c in enumerate("abc")}
    for merge in merges:
        vocabulary.setdefault("".join(merge), len(vocabulary))
    model = hf.Tokenizer(hf.models.BPE(vocabulary, merges))
    for _ in range(20):
        word = "".join(draw.choices("abc", k=draw.randint(1, 12)))
        assert list(apply_bpe(tuple(word), merges)) == model.encode(word).tokens


@pytest.mark.parametrize("seed", range(10))
def test_wordpiece_equals_hugging_faces_model(seed: int) -> None:
    draw = random.Random(seed)
    pieces = {"".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(12)}
    vocabulary = {"a", "b", "c", "##a", "##b", *pieces, *(f"##{piece}" for piece in list(pieces)[:6])}
    ids = {piece: i for i, piece in enumerate(["[UNK]", *sorted(vocabulary)])}
    model = hf.Tokenizer(hf.models.WordPiece(ids, unk_token="[UNK]"))
    for _ in range(30):
        word = "".join(draw.choices("abc", k=draw.randint(1, 9)))
        assert (wordpiece(word, vocabulary) or ["[UNK]"]) == model.encode(word).tokens


@pytest.mark.parametrize("seed", range(10))
def test_unigram_finds_the_best_of_all_cuts(seed: int) -> None:
    draw = random.Random(seed)
    entries = {"".join(draw.choices("ab", k=draw.randint(1, 4))) for _ in range(8)} | {"a", "b"}
    log_p = {entry: math.log(draw.uniform(0.01, 1)) for entry in entries}
    word = "".join(draw.choices("ab", k=9))
    cuts = []
    for marks in itertools.product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, mark in enumerate(marks) if mark]
        cut = [word[i:j] for i, j in zip([0, *ends], [*ends, len(word)], strict=True)]
        if all(part in log_p for part in cut):
            cuts.append((sum(log_p[part] for part in cut), cut))
    assert unigram(word, log_p) == max(cuts)[1]
    assert unigram("abx", log_p) == []
