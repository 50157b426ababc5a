"""Does word-level byte-pair encoding give what the paper's algorithm 1 gives, and lose nothing?"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.events import Event, Message
from diptych.reference.tokenization import apply_bpe, learn_bpe
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.sennrich import END, SennrichTokenizer, train_sennrich

TOY = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
"""The dictionary of Sennrich et al. 2016, algorithm 1."""

PUBLISHED = ["e s", "es t", f"est {END}", "l o", "lo w", "n e", "ne w", f"new est{END}", f"low {END}", "w i"]
"""The merges that the program of algorithm 1 prints."""


def as_text(dictionary: dict[str, int]) -> str:
    return " ".join(word for word, count in dictionary.items() for _ in range(count))


def dictionary_of(words: list[str]) -> dict[tuple[str, ...], int]:
    return {(*word, END): count for word, count in Counter(words).items()}


def written(tokenizer: SennrichTokenizer) -> list[tuple[str, str]]:
    return [(left.replace(" ", END), right.replace(" ", END)) for left, right in tokenizer.merges]


@pytest.fixture(scope="module")
def toy() -> SennrichTokenizer:
    return train_sennrich([as_text(TOY)], 257 + 10)


def test_the_published_example_comes_out(toy: SennrichTokenizer) -> None:
    assert [" ".join(merge) for merge in written(toy)] == PUBLISHED
    assert toy.symbols(toy.encode("lowest newer")) == ["low", f"est{END}", "new", "e", "r", END]


@pytest.mark.parametrize("seed", range(40))
def test_merges_and_tokens_equal_algorithm_1(seed: int) -> None:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcé日", k=draw.randint(1, 6))) for _ in range(draw.randint(1, 40))]
    tokenizer = train_sennrich([" ".join(words)], 800)
    expected = learn_bpe(dictionary_of(words), 800)
    assert written(tokenizer) == expected
    known = "".join(sorted(set("".join(words))))
    for word in [*words, *("".join(draw.choices(known, k=7)) for _ in range(5))]:
        assert tokenizer.symbols(tokenizer.encode(word)) == list(apply_bpe((*word, END), expected))


def test_a_text_in_pieces_is_the_same_text() -> None:
    words = as_text(TOY).split()
    assert (
        train_sennrich([" ".join(words[:7]), " ".join(words[7:])], 267).merges
        == train_sennrich([" ".join(words)], 267).merges
    )


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40) | st.text(st.sampled_from("low est\n\t 日é"), max_size=40))
def test_no_text_is_lost(toy: SennrichTokenizer, text: str) -> None:
    expected = text.encode("utf-8", "replace") if not any("\ud800" <= c <= "\udfff" for c in text) else None
    ids = toy.encode(text)
    if expected is not None:
        assert toy.decode(ids) == text and toy.decode_bytes(ids) == expected
        assert b"".join(toy.token_bytes(int(i)) for i in ids) == (expected + b" " if text else b"")
    assert [each.tolist() for each in toy.encode_batch([text, "", text])] == [ids.tolist(), [], ids.tolist()]


def test_characters_that_were_not_met_become_bytes(toy: SennrichTokenizer) -> None:
    assert toy.encode("ü").tolist() == [*"ü".encode(), ord(" ")]


def test_beginnings_of_characters_are_shared_and_unknown_ones_survive() -> None:
    tokenizer = train_sennrich(["日本 日 本 日"], 300)
    assert tokenizer.decode(tokenizer.encode("日旧本🙂")) == "日旧本🙂"


def test_it_is_kept_in_a_file(toy: SennrichTokenizer, tmp_path: Path) -> None:
    toy.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path)
    assert isinstance(again, SennrichTokenizer)
    assert again.merges == toy.merges and again.vocab_size == toy.vocab_size
    assert again.encode("low lowest </w>").tolist() == toy.encode("low lowest </w>").tolist()


@pytest.mark.parametrize(
    "text",
    [
        '{"diptych": "sennrich"}',
        '{"diptych": "sennrich", "alphabet": "", "merges": [["l", "ox"]]}',
        '{"diptych": "sennrich", "alphabet": "", "merges": [["l"]]}',
        '{"diptych": "sennrich", "alphabet": "", "merges": 3}',
        '{"diptych": "sennrich", "alphabet": 3, "merges": []}',
        '{"diptych": "sennrich", "alphabet": "éé", "merges": []}',
        '{"diptych": "sennrich", "alphabet": "a", "merges": []}',
        '{"diptych": "sennrich", "alphabet": "\\ud800", "merges": []}',
    ],
)
def test_damaged_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: its alphabet and merges") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_too_small_a_vocabulary_and_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 259 tokens"):
        train_sennrich(["日"], 258)  # 256 bytes, the beginning of the character, the character, the special token: 259
    with pytest.raises(ValueError, match="no text to learn from"):
        train_sennrich(["", ""], 300)


def test_a_text_that_runs_out_of_pairs_says_so() -> None:
    events: list[Event] = []
    tokenizer = train_sennrich(["ab ab"], 400, on_event=events.append)
    assert tokenizer.merges == [("a", "b"), ("ab", " ")] and tokenizer.vocab_size == 259
    assert any(isinstance(event, Message) and "259 tokens, not 400" in event.text for event in events)
