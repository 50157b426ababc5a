"""Are tokens, whole words and the cost of attention counted right?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.config import TokenizerConfig
from diptych.evaluation.tokenization import score_tokenizer, whole_words
from diptych.tokenizers.simple import ByteTokenizer, WordTokenizer
from diptych.tokenizers.train import train_tokenizer


def brute_force(tokens: list[bytes]) -> tuple[int, int]:
    """Every token against every word, by the places of their bytes."""
    text = b"".join(tokens)
    places, at = [], 0
    for token in tokens:
        places.append(set(range(at, at + len(token))))
        at += len(token)
    found = [set(range(*match.span())) for match in re.finditer(rb"\S+", text)]
    whole = 0
    for word in found:
        others = set().union(*(other for other in found if other is not word))
        whole += any(word <= token and not token & others for token in places)
    return len(found), whole


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.text("ab \n", min_size=1, max_size=5).map(str.encode), max_size=12))
def test_whole_words_equal_a_brute_force(tokens: list[bytes]) -> None:
    lengths = np.array([len(token) for token in tokens], np.int64)
    assert whole_words(b"".join(tokens), lengths) == brute_force(tokens)


def test_the_figures_of_bytes_are_those_of_the_text() -> None:
    texts = ["a bc d", "é x"]
    score = score_tokenizer("bytes", ByteTokenizer(), texts, rounds=1)
    assert (score.n_documents, score.n_bytes, score.n_tokens) == (2, 10, 10)
    assert score.bytes_per_token == 1.0 and score.attention_pairs == 6**2 + 4**2
    assert (score.n_words, score.words_whole) == (5, 3)  # a, d, x
    assert score.seconds > 0 and score.megabytes_per_second == pytest.approx(10 / 1e6 / score.seconds)


def test_words_stay_whole_where_the_vocabulary_has_them() -> None:
    tokenizer = WordTokenizer(["Sun", " rises", " from", " the"])
    score = score_tokenizer("words", tokenizer, ["Sun rises from the east"], rounds=1)
    assert (score.n_words, score.words_whole, score.n_tokens) == (5, 4, 4 + 5)


@pytest.mark.parametrize("kind", ["character", "word", "sennrich", "bpe"])
def test_every_scheme_accounts_for_the_whole_text(kind: str) -> None:
    texts = ["Sun rises from the east, the sun. " * 5, "naïve\n\n日本 x"]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=300))  # type: ignore[arg-type]
    score = score_tokenizer(kind, tokenizer, texts, rounds=2)
    counted = [brute_force([tokenizer.token_bytes(int(i)) for i in tokenizer.encode(text)]) for text in texts]
    assert (score.n_words, score.words_whole) == tuple(map(sum, zip(*counted, strict=True)))
    assert score.n_bytes == sum(len(text.encode()) for text in texts)


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no text to compare"):
        score_tokenizer("bytes", ByteTokenizer(), ["", ""])
