"""Is the reference of tokenization right? Against closed examples, Hugging Face's models and plain enumeration."""

from __future__ import annotations

import itertools
import math
import random

import pytest

import tokenizers as hf
from diptych.core.config import TokenizerConfig
from diptych.reference.tokenization import (
    apply_bpe,
    characters,
    learn_bpe,
    merged,
    pair_counts,
    unigram,
    wordpiece,
    words,
)
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.letters import BYTE_TO_LETTER, LETTER_TO_BYTE, to_letters
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.subword import train_unigram, train_wordpiece
from diptych.tokenizers.train import train_tokenizer

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
    entries = sorted({"".join(draw.choices("ab", k=draw.randint(1, 4))) for _ in range(8)} | {"a", "b"})
    log_p = {entry: math.log(draw.uniform(0.01, 1)) for entry in entries}
    word = "".join(draw.choices("ab", k=9))
    cuts = []
    for marks in itertools.product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, mark in enumerate(marks) if mark]
        cut = [word[i:j] for i, j in zip([0, *ends], [*ends, len(word)], strict=True)]
        if all(part in log_p for part in cut):
            cuts.append(cut)
    found = unigram(word, log_p)
    # The same entries in another order are as probable.
    best = max(math.fsum(log_p[part] for part in cut) for cut in cuts)
    assert found in cuts and math.fsum(log_p[part] for part in found) == pytest.approx(best, abs=1e-12)
    assert unigram("abx", log_p) == []


TEXT = "Sun rises from the east, the sun; sunrise is from the east.\nThe rest arises, these are risen: süß! " * 3


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token_bytes(int(token)).decode("utf-8", "replace") for token in tokenizer.encode(text)]


def chunks_of(text: str) -> list[str]:
    return ["".join(BYTE_TO_LETTER[byte] for byte in chunk.encode()) for chunk in Split.named("gpt2").chunks(text)]


def test_characters_and_words_equal_the_fast_ones() -> None:
    assert pieces_of(train_tokenizer([TEXT], TokenizerConfig(kind="character")), TEXT) == characters(TEXT)
    # A word of one byte is that byte's token.
    assert pieces_of(train_tokenizer([TEXT], TokenizerConfig(kind="word")), TEXT) == words(TEXT)


def test_byte_level_merges_equal_the_fast_ones() -> None:
    """Where no counts are equal, for the fast trainer settles those otherwise."""
    tokenizer = train_bpe([TEXT], 290)
    merges = [(to_letters(tokenizer.pieces[a]), to_letters(tokenizer.pieces[b])) for a, b in tokenizer.merges or ()]
    counts = dict.fromkeys(map(tuple, chunks_of(TEXT)), 0)
    for chunk in chunks_of(TEXT):
        counts[tuple(chunk)] += 1
    vocabulary = counts
    for merge in merges:
        found = pair_counts(vocabulary)
        assert found[merge] == max(found.values())
        vocabulary = {merged(word, merge): count for word, count in vocabulary.items()}
    expected = [token for chunk in chunks_of(TEXT) for token in apply_bpe(tuple(chunk), merges)]
    assert [to_letters(tokenizer.pieces[int(token)]) for token in tokenizer.encode(TEXT)] == expected


def test_wordpiece_and_unigram_equal_the_fast_ones() -> None:
    pieces = train_wordpiece([TEXT], 600)
    expected = [token for chunk in chunks_of(TEXT) for token in wordpiece(chunk, set(pieces.entries))]
    assert [pieces.entries[int(token)] for token in pieces.encode(TEXT)] == expected
    model = train_unigram([TEXT], 320)
    log_p = dict(zip(model.entries, model.scores or (), strict=True))
    for chunk in set(chunks_of(TEXT)):
        data = bytes(LETTER_TO_BYTE[letter] for letter in chunk)
        found = [model.entries[int(token)] for token in model.encode(data.decode())]
        assert "".join(found) == chunk
        # Cuts of equal probability exist: the probability is compared.
        assert sum(log_p[token] for token in found) == pytest.approx(
            sum(log_p[token] for token in unigram(chunk, log_p)), abs=1e-9
        )
